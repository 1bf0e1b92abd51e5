"""porting::IntegerConv, the exact int8 convolution with an int32 accumulator."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from porting_kernels.convolution import convolve
from porting_kernels.exact_integer import contraction_dtype, to_int32
from porting_kernels.registry import kernel
from porting_kernels.window_geometry import windows


@kernel("IntegerConv", domain="porting")
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
