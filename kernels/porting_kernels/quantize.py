"""porting::Quantize, float -> int8 with one scale and one offset a tensor."""

from __future__ import annotations

import torch

from porting_kernels import native
from porting_kernels.precision import widen
from porting_kernels.registry import Context, kernel
from porting_kernels.rounding import saturate_int8


@kernel("Quantize", domain="porting")
def quantize(x: torch.Tensor, *, scale: float, offset: int = 0, context: Context) -> torch.Tensor:
    """Codes y = saturate(round(x * scale + offset)) as int8; scale is a multiplier, the reciprocal of the step.

    x: float16, bfloat16 or float32, any shape; product and sum are each rounded to float32 (a float64 x, as in ref64
    mode, computes in float64). Ties follow numerics.quantize_rounding, half to even by default. NaN becomes 0.
    """
    rounding = context.numerics.quantize_rounding
    if x.dtype == torch.float64:
        return saturate_int8(x * scale + offset, rounding)
    return native.quantize_int8(widen(x), scale, offset, rounding)
