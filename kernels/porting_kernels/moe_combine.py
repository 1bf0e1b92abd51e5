"""porting::MoeCombine, the weighted sum of what a token's experts made of it."""

from __future__ import annotations

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.registry import kernel


@kernel("MoeCombine", domain="porting", owns_result=True)
def moe_combine(rows: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """y[t] = sum over slots s of weights[t, s] * rows[r], where index[r] = t * k + s.

    rows: (N * k, H) float16, bfloat16 or float32, in the order of MoeDispatch. index: (N * k,) int64, a permutation.
    weights: (N, k). Returns (N, H) of the dtype of rows. Products and sums are float32 (float64 for float64), each
    rounded, slot 0 first; the sum is rounded to the dtype of rows once. Raises ShapeError when the operands do not fit.
    """
    tokens, slots = weights.shape
    if rows.ndim != 2 or rows.shape[0] != tokens * slots or index.shape != (tokens * slots,):
        raise ShapeError(
            "operands of a combination do not fit",
            required=f"{tokens * slots} rows and indices for weights {tuple(weights.shape)}",
            met=f"rows {tuple(rows.shape)}, index {tuple(index.shape)}",
        )
    wide = torch.promote_types(rows.dtype, torch.float32)
    row = torch.empty_like(index).scatter_(0, index, torch.arange(index.numel())).reshape(tokens, slots)
    factors = weights.to(wide)
    total = torch.zeros(tokens, rows.shape[1], dtype=wide)
    for slot in range(slots):
        total += rows[row[:, slot]].to(wide) * factors[:, slot, None]
    return total.to(rows.dtype)
