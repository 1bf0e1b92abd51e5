"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear of ONNX.

Scales and zero points are scalars (one a tensor), vectors (one an index of ``axis``), or of the rank of the data (one
a block of ``block_size`` elements along ``axis``). Types below one byte travel one element a byte, so their ONNX code
comes from an attribute or from the context.
"""

from __future__ import annotations

import torch

from porting_kernels.cast import cast_to
from porting_kernels.dtypes import Dtype, by_code, by_torch, promoted
from porting_kernels.errors import DtypeError, ShapeError
from porting_kernels.precision import widen
from porting_kernels.registry import Context, kernel

_UINT8 = 2


def _spread(values: torch.Tensor, x: torch.Tensor, axis: int, block_size: int) -> torch.Tensor:
    """Scales or zero points in a shape that broadcasts to x."""
    if values.numel() == 1:
        return values.reshape(())
    axis %= x.ndim
    if values.ndim == 1 and not block_size:
        if values.shape[0] != x.shape[axis]:
            raise ShapeError("scales an axis", required=f"{x.shape[axis]} along axis {axis}", met=values.shape[0])
        return values.reshape(-1, *(1,) * (x.ndim - 1 - axis))
    blocks = -(-x.shape[axis] // block_size) if block_size else 0
    if values.shape != (*x.shape[:axis], blocks, *x.shape[axis + 1 :]):
        raise ShapeError(
            f"scales of blocks of {block_size} along axis {axis}",
            required=(*x.shape[:axis], blocks, *x.shape[axis + 1 :]),
            met=tuple(values.shape),
        )
    return values.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])


def integer_limits(row: Dtype) -> tuple[int, int]:
    """Smallest and largest value of an integer element type, those below one byte included."""
    return (-(1 << row.bits - 1), (1 << row.bits - 1) - 1) if row.torch.is_signed else (0, (1 << row.bits) - 1)


def quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, row: Dtype) -> torch.Tensor:
    """saturate(round_half_even(x / scale) + zero_point) in an integer type; operands broadcast, x is a wide float."""
    low, high = integer_limits(row)
    codes = torch.div(x, scale).round_()
    if zero_point is not None:
        codes.add_(zero_point.to(codes.dtype))
    return codes.clamp_(low, high).to(row.torch)


@kernel("QuantizeLinear", since=10)
def quantize_linear(
    x: torch.Tensor,
    y_scale: torch.Tensor,
    y_zero_point: torch.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    context: Context,
) -> torch.Tensor:
    """x / y_scale in the type of y_zero_point or output_dtype, uint8 by default. Source: ONNX QuantizeLinear, 10 to 28.

    x: float or int32. Integer types: half to even, then the zero point, then saturation; NaN has no defined code.
    8-bit and 4-bit floats: rounded to nearest, saturating if ``saturate``. Half precision divides in float32, as
    onnxruntime does; ``precision`` counts where it is wider than that.
    """
    code = output_dtype
    if not code and y_zero_point is not None:
        known = context.input_codes[2] if len(context.input_codes) > 2 else None
        code = known or by_torch(y_zero_point.dtype).code
    row = by_code(code or _UINT8)
    dtype = torch.promote_types(widen(x).dtype if x.is_floating_point() else torch.float32, widen(y_scale).dtype)
    if precision:
        dtype = torch.promote_types(dtype, by_code(precision).torch)
    scale = _spread(y_scale.to(dtype), x, axis, block_size)
    if row.is_float:
        return cast_to(x.to(dtype) / scale, row, saturate=bool(saturate))
    zero = None if y_zero_point is None else _spread(y_zero_point, x, axis, block_size)
    return quantize(x.to(dtype), scale, zero, row)


@kernel("DequantizeLinear", since=10)
def dequantize_linear(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    x_zero_point: torch.Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    context: Context,
) -> torch.Tensor:
    """(x - x_zero_point) * x_scale in the type of x_scale or output_dtype. Source: ONNX DequantizeLinear, 10 to 28.

    Computed in float32 or wider and rounded once. Float zero points are zero by definition.
    """
    target = by_code(output_dtype).torch if output_dtype else x_scale.dtype
    target = promoted(target) if context.numerics.float64 else target
    dtype = torch.promote_types(torch.float32, target)
    y = x.to(dtype)
    if y is x:
        raise DtypeError("nothing to dequantize", required="an integer or 8-bit float type", met=x.dtype)
    if x_zero_point is not None and not x_zero_point.is_floating_point():
        y.sub_(_spread(x_zero_point, x, axis, block_size).to(dtype))
    return y.mul_(_spread(x_scale.to(dtype), x, axis, block_size)).to(target)


@kernel("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """uint8 codes of x, their scale (in the type of x) and zero point, over the range of x widened to hold 0.

    A range of nothing but zero has scale 1, as in onnxruntime; ONNX's formula divides 0 by 0 there.
    Source: ONNX operator DynamicQuantizeLinear.
    """
    zero = torch.zeros((), dtype=x.dtype)
    if x.numel() == 0:
        return x.to(torch.uint8), zero + 1, zero.to(torch.uint8)
    low, high = torch.minimum(x.amin(), zero), torch.maximum(x.amax(), zero)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale).to(x.dtype)
    zero_point = (-low / scale).round().clamp(0, 255).to(torch.uint8)
    return quantize(x, scale, zero_point, by_code(_UINT8)), scale, zero_point
