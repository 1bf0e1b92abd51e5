"""porting::DynamicQuantize, float -> int8 or int4 codes with one scale a row."""

from __future__ import annotations

import torch

from porting_kernels.precision import widen
from porting_kernels.registry import Context, kernel
from porting_kernels.rounding import round_ties


@kernel("DynamicQuantize", domain="porting")
def dynamic_quantize(
    x: torch.Tensor, smooth: torch.Tensor | None = None, *, bits: int = 8, context: Context
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes round(v / scale) of v = x * smooth, with scale = max|v| / L over the last axis, L = 127 or 7.

    x: (..., K) float16, bfloat16 or float32. smooth: (K,) or (1,) float32. bits: 8 or 4; one int8 holds one code either
    way. Returns int8 (..., K) in -L - 1 to L and float32 (...); every step is rounded to float32 (float64 for a float64
    x, as in ref64 mode). Ties follow numerics.quantize_rounding, half to even by default. A row of zeros has scale 0
    and codes 0. A row with NaN or an infinity has scale infinity and codes 0, so that what is made of it is NaN.
    Source of the formula: Ascend npu_dynamic_quant and Cambricon scaled_quantize, which agree.
    """
    limit = 2 ** (bits - 1) - 1
    v = widen(x)
    if smooth is not None:
        v = v * smooth.to(v.dtype)
    scale = v.abs().amax(-1).nan_to_num_(nan=torch.inf, posinf=torch.inf) / limit
    step = torch.where(scale == 0, 1, scale).unsqueeze(-1)
    codes = round_ties((v / step).nan_to_num_(nan=0.0), context.numerics.quantize_rounding)
    return codes.clamp_(-limit - 1, limit).to(torch.int8), scale
