"""porting::IntegerConv, the exact int8 convolution with an int32 accumulator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from porting_kernels.convolution import convolve
from porting_kernels.exact_integer import contraction_dtype, exact_in_float32, to_int32
from porting_kernels.packed_convolution import PackedConv2d, packable
from porting_kernels.registry import kernel
from porting_kernels.window_geometry import windows


def _packed_integer_conv(
    x: torch.Tensor | None,
    w: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    *,
    x_zero_point: int = 0,
    group: int = 1,
    **attributes: Any,
) -> Callable[..., torch.Tensor] | None:
    """IntegerConv with a constant 2-D weight, packed.

    Input channels are split into parts whose sums stay below 2**24 for any x, so that float32 holds them; the parts
    add up in int32. Weights that no split makes small enough are left to the kernel.
    """
    if w is None or not packable(w):
        return None
    largest = 128 + abs(x_zero_point)
    width = w.shape[1]
    while not all(exact_in_float32(part, largest) for part in torch.split(w, width, dim=1)):
        if group > 1 or width == 1:
            return None
        width = -(-width // 2)
    parts = [PackedConv2d(part.contiguous(), group=group, **attributes) for part in torch.split(w, width, dim=1)]

    def convolution(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        wide = x.to(torch.float32)
        if x_zero_point:
            wide -= x_zero_point
        slices = torch.split(wide, width, dim=1) if len(parts) > 1 else (wide,)
        sums = [part(values) for part, values in zip(parts, slices, strict=False)]
        whole = [to_int32(s) for s in sums if s is not None]
        if x.dtype != torch.int8 or len(slices) != len(parts) or len(whole) != len(parts):
            y: torch.Tensor = integer_conv(x, w, bias, x_zero_point=x_zero_point, group=group, **attributes)
            return y
        acc = functools.reduce(torch.Tensor.add_, whole)
        return acc if bias is None else acc.add_(bias.reshape(-1, 1, 1))

    return convolution


@kernel("IntegerConv", domain="porting", specialize=_packed_integer_conv)
def integer_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    x_zero_point: int = 0,
) -> torch.Tensor:
    """int32 convolution of (x - x_zero_point) with w plus bias; padding counts as x_zero_point, that is as 0.

    x: int8 (N, C, D1..Dn), n = 1 to 3. w: int8 (M, C/group, K1..Kn). bias: int32 (M,) or (1,). Attributes are those
    of ONNX Conv. Returns int32 (N, M, ...); sums beyond int32 wrap.
    """
    shape = kernel_shape or w.shape[2:]
    geometry = windows(x.shape[2:], shape, auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations)
    if x_zero_point:
        x = x.to(torch.int16) - x_zero_point
    dtype = contraction_dtype(x, w)
    acc = to_int32(convolve(x.to(dtype), w.to(dtype), None, geometry, group))
    return acc if bias is None else acc + bias.reshape(-1, *(1,) * (w.ndim - 2))
