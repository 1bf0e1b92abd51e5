"""Two-dimensional convolution with a weight that never changes, kept in the layout that oneDNN chooses for it.

torch.conv2d reorders its weight on every call: a third of the time of ResNet-50 with one image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from porting_kernels.precision import is_half
from porting_kernels.window_geometry import windows

Convolution = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]


@functools.cache
def _available() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def packable(w: torch.Tensor) -> bool:
    """True for a 2-D convolution weight that float32 holds exactly, where this build of torch has oneDNN."""
    exact = w.dtype in (torch.float32, torch.int8) or is_half(w.dtype)
    return w.ndim == 4 and w.numel() > 0 and exact and _available()


class PackedConv2d:
    """ONNX Conv with the constant weight w (M, C/group, Kh, Kw), for which ``packable`` holds.

    The packed weight is kept for the shape of x met last: many calls with one shape are what it is for. Several
    threads may call one object. Results differ from torch.conv2d's at most in the order of summation.
    """

    def __init__(
        self,
        w: torch.Tensor,
        *,
        auto_pad: str = "NOTSET",
        dilations: Sequence[int] | None = None,
        group: int = 1,
        kernel_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> None:
        self._weight = w
        self._group = group
        self._windows = functools.partial(
            windows,
            kernel=kernel_shape or w.shape[2:],
            auto_pad=auto_pad,
            pads=pads,
            strides=strides,
            dilations=dilations,
        )
        self._packed: tuple[torch.Size, Convolution] | None = None

    def __call__(self, x: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor | None:
        """(N, M, ...) float32 from x (N, C, H, W) float32 and b (M,) float32.

        None for an x that is not taken: of another dtype or rank, empty, or with other channels.
        """
        if x.dtype != torch.float32:
            return None
        packed = self._packed
        if packed is None or packed[0] != x.shape:
            if x.ndim != 4 or x.numel() == 0 or x.shape[1] != self._weight.shape[1] * self._group:
                return None
            packed = self._packed = (x.shape, self._pack(x.shape))
        return packed[1](x, b)

    def _pack(self, shape: torch.Size) -> Convolution:
        geometry = self._windows(shape[2:])
        geometry.output()
        even = geometry.symmetric
        padding = geometry.begin if even else (0, 0)
        padded = [n if even else n + p + q for n, p, q in zip(shape[2:], geometry.begin, geometry.end, strict=True)]
        weight = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]  # stubs lack the input's shape
            self._weight.to(torch.float32).to_mkldnn(),
            list(padding),
            list(geometry.strides),
            list(geometry.dilations),
            self._group,
            [*shape[:2], *padded],
        )
        operator = torch.ops.mkldnn._convolution_pointwise.default
        constant: tuple[Any, ...] = (padding, geometry.strides, geometry.dilations, self._group, "none", [], "")
        if even:
            return lambda x, b: operator(x, weight, b, *constant)
        return lambda x, b: operator(geometry.pad(x, 0), weight, b, *constant)
