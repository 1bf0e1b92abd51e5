"""Conv, ConvTranspose, ConvInteger and Col2Im.

Layouts are ONNX's: x (N, C, D1..Dn), w (M, C/group, K1..Kn), pads as all begins then all ends. One to three spatial
axes for the convolutions; Col2Im takes any number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from porting_kernels.errors import ShapeError
from porting_kernels.exact_integer import contraction_dtype, to_int32
from porting_kernels.packed_convolution import PackedConv2d, packable
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel
from porting_kernels.window_geometry import Windows, windows

_CONV: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def convolve(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, geometry: Windows, group: int) -> torch.Tensor:
    """Cross-correlate x (N, C, D..) with w (M, C/group, K..) and add b (M,). Symmetric padding costs no copy."""
    operator = _spatial(_CONV, x)
    if x.shape[1] != w.shape[1] * group:
        raise ShapeError("input channels do not fit the weight", required=w.shape[1] * group, met=x.shape[1])
    geometry.output()
    if geometry.symmetric:
        padding: Sequence[int] = geometry.begin
    else:
        x, padding = geometry.pad(x, 0), (0,) * len(geometry.size)
    return operator(x, w, b, geometry.strides, padding, geometry.dilations, group)


def _spatial(operators: dict[int, Callable[..., torch.Tensor]], x: torch.Tensor) -> Callable[..., torch.Tensor]:
    try:
        return operators[x.ndim - 2]
    except KeyError:
        raise ShapeError("convolution over this many axes", required="1 to 3 spatial axes", met=x.ndim - 2) from None


def _packed_conv(
    x: torch.Tensor | None, w: torch.Tensor | None, b: torch.Tensor | None = None, **attributes: Any
) -> Callable[..., torch.Tensor] | None:
    """Conv with a constant 2-D weight, packed."""
    if w is None or not packable(w):
        return None
    packed = PackedConv2d(w, **attributes)

    @rounds_once
    def convolution(x: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        y = packed(x, b)
        return conv(x, w.to(x.dtype), b, **attributes) if y is None else y

    return lambda x, w, b=None: convolution(x, b)


@kernel("Conv", specialize=_packed_conv, owns_result=True)
@rounds_once
def conv(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """ONNX Conv. Float16 and bfloat16 accumulate in float32. Source: ONNX operator Conv."""
    shape = kernel_shape or w.shape[2:]
    geometry = windows(x.shape[2:], shape, auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations)
    return convolve(x, w, b, geometry, group)


@kernel("ConvInteger")
def conv_integer(
    x: torch.Tensor,
    w: torch.Tensor,
    x_zero_point: torch.Tensor | None = None,
    w_zero_point: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Exact int32 convolution of (x - x_zero_point) with (w - w_zero_point); padding counts as x_zero_point.

    x, w: int8 or uint8. w_zero_point: scalar or one an output channel. Source: ONNX operator ConvInteger.
    """
    shape = kernel_shape or w.shape[2:]
    geometry = windows(x.shape[2:], shape, auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations)
    w = w.to(torch.int32)
    if w_zero_point is not None:
        w = w - w_zero_point.to(torch.int32).reshape(-1, *(1,) * (w.ndim - 1))
    if x_zero_point is not None and bool(x_zero_point.any()):
        x = x.to(torch.int32) - x_zero_point.to(torch.int32)
    dtype = contraction_dtype(x, w)
    return to_int32(convolve(x.to(dtype), w.to(dtype), None, geometry, group))


@kernel("ConvTranspose")
@rounds_once
def conv_transpose(
    x: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """ONNX ConvTranspose; w is (C, M/group, K..). Source: ONNX operator ConvTranspose.

    An output_shape larger than the scattered windows is filled with the bias at the end, as onnxruntime does.
    """
    operator = _spatial(_CONV_TRANSPOSE, x)
    if x.shape[1] != w.shape[0]:
        raise ShapeError("input channels do not fit the weight", required=w.shape[0], met=x.shape[1])
    rank = x.ndim - 2
    strides = strides or (1,) * rank
    dilations = dilations or (1,) * rank
    extra = tuple(output_padding or (0,) * rank)
    kernel_shape = kernel_shape or w.shape[2:]
    full = [
        s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in zip(x.shape[2:], kernel_shape, strides, dilations, strict=True)
    ]
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if output_shape is None:
        pads = pads if pads and auto_pad == "NOTSET" else (0,) * 2 * rank
        begin, end = tuple(pads[:rank]), tuple(pads[rank:])
        if begin == end and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
            return operator(x, w, b, strides, begin, extra, group, dilations)
        sizes = [f + e - p - q for f, e, p, q in zip(full, extra, begin, end, strict=True)]
    else:
        sizes = list(output_shape[-rank:])
        total = [max(f + e - n, 0) for f, e, n in zip(full, extra, sizes, strict=True)]
        begin = tuple(t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in total)
    y = operator(x, w, None, strides, 0, 0, group, dilations)
    y = F.pad(
        y,
        [v for p, n, f in zip(reversed(begin), reversed(sizes), reversed(full), strict=True) for v in (-p, n + p - f)],
    )
    return y if b is None else y + b.reshape(-1, *(1,) * rank)


@kernel("Col2Im", since=18)
@rounds_once
def col2im(
    x: torch.Tensor,
    image_shape: torch.Tensor,
    block_shape: torch.Tensor,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Sum column blocks x (N, C * prod(block), L) into an image (N, C, *image_shape).

    Source: ONNX operator Col2Im.
    """
    image, block = image_shape.tolist(), block_shape.tolist()
    geometry = windows(image, block, pads=pads, strides=strides, dilations=dilations)
    counts = geometry.output()
    columns = x.reshape(x.shape[0], -1, *block, *counts)
    padded = [n + p + q for n, p, q in zip(image, geometry.begin, geometry.end, strict=True)]
    canvas = x.new_zeros(x.shape[0], columns.shape[1], *padded)
    everything: tuple[slice | int, ...] = (slice(None), slice(None))
    for position in itertools.product(*map(range, block)):
        starts = [p * d for p, d in zip(position, geometry.dilations, strict=True)]
        cells = [slice(a, a + (c - 1) * s + 1, s) for a, c, s in zip(starts, counts, geometry.strides, strict=True)]
        place, column = (*everything, *cells), everything + position
        canvas[place] += columns[column]
    inside = (*everything, *(slice(p, p + n) for p, n in zip(geometry.begin, image, strict=True)))
    return canvas[inside]
