"""porting::Dequantize, int32 accumulators -> float with one scale a tensor or a channel."""

from __future__ import annotations

import torch

from porting_kernels import fp19
from porting_kernels.dtypes import torch_dtype
from porting_kernels.errors import ShapeError
from porting_kernels.registry import Context, kernel


@kernel("Dequantize", domain="porting")
def dequantize(
    acc: torch.Tensor, scale: torch.Tensor, *, axis: int = 1, dtype: int = 1, context: Context
) -> torch.Tensor:
    """Scale accumulators: y = float32(acc) * scale, cast to ``dtype`` (an ONNX code).

    acc: int32, any shape. scale: float32, one element, or as many as acc has along ``axis``. Both the conversion of
    acc and the product are rounded to float32. numerics.dequantize_scale = fp19 cuts the scale to FP19 first;
    numerics.dequantize_overflow = saturate keeps a float16 result within +-65504 instead of making it infinite.
    Raises ShapeError when scale fits neither form.
    """
    numerics = context.numerics
    scale = scale.reshape(-1)
    if numerics.dequantize_scale == "fp19":
        scale = fp19.truncate(scale.to(torch.float32))
    if scale.numel() != 1:
        channels = acc.shape[axis]
        if scale.numel() != channels:
            raise ShapeError("scale does not fit the accumulator", required=f"1 or {channels}", met=scale.numel())
        shape = [1] * acc.ndim
        shape[axis] = channels
        scale = scale.reshape(shape)
    if numerics.float64:
        return acc.to(torch.float64) * scale.to(torch.float64)
    y = acc.to(torch.float32) * scale
    target = torch_dtype(dtype)
    if numerics.dequantize_overflow == "saturate" and target != torch.float32:
        limit = torch.finfo(target).max
        y = y.clamp_(-limit, limit)
    return y.to(target)
