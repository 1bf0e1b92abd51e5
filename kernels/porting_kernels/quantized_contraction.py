"""QLinearConv and QLinearMatMul: exact integer contractions, requantized to 8 bits.

The int32 accumulator is multiplied in float32 by x_scale * w_scale / y_scale, rounded half to even, moved by the zero
point and saturated: the arithmetic of onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from porting_kernels.convolution import conv_integer
from porting_kernels.dtypes import by_torch
from porting_kernels.matmul import matmul_integer
from porting_kernels.precision import widen
from porting_kernels.registry import kernel
from porting_kernels.standard_quantization import integer_limits


def _requantize(accumulator: torch.Tensor, multiplier: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    low, high = integer_limits(by_torch(zero_point.dtype))
    codes = accumulator.to(multiplier.dtype).mul_(multiplier).round_().add_(zero_point.to(multiplier.dtype))
    return codes.clamp_(low, high).to(zero_point.dtype)


@kernel("QLinearConv", since=10)
def qlinear_conv(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_zero_point: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    w_zero_point: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Convolution of 8-bit x and w with an int32 bias b (M,) of scale x_scale * w_scale. Source: ONNX QLinearConv.

    w_scale and w_zero_point: scalar or one an output channel. The output has the type of y_zero_point.
    """
    accumulator = conv_integer(
        x,
        w,
        x_zero_point,
        w_zero_point,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    channel = (-1, *(1,) * (x.ndim - 2))
    if b is not None:
        accumulator = accumulator + b.reshape(channel)
    multiplier = x_scale * w_scale / y_scale
    return _requantize(accumulator, multiplier.reshape(channel if multiplier.numel() > 1 else ()), y_zero_point)


@kernel("QLinearMatMul", since=10)
def qlinear_matmul(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    a_zero_point: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    b_zero_point: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor,
) -> torch.Tensor:
    """Matrix product of 8-bit a and b; the output has the type of y_zero_point. Source: ONNX QLinearMatMul.

    a_scale, y_scale: scalar or one a row; b_scale: scalar or one a column; or of the operand's rank.
    """
    a_scale, b_scale, y_scale = widen(a_scale), widen(b_scale), widen(y_scale)
    rows = [s.unsqueeze(-1) if s.ndim == 1 and s.numel() > 1 else s for s in (a_scale, y_scale, y_zero_point)]
    accumulator = matmul_integer(a, b, a_zero_point, b_zero_point)
    return _requantize(accumulator, rows[0] * b_scale / rows[1], rows[2])
