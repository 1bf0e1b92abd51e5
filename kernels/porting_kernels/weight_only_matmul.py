"""porting::WeightOnlyMatMul and porting::WeightOnlyGroupedMatmul, float rows times weights stored as integers."""

from __future__ import annotations

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.grouped_matmul import ExpertWeights, runs
from porting_kernels.registry import kernel


@kernel("WeightOnlyMatMul", domain="porting", owns_result=True)
def weight_only_matmul(
    x: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, bias: torch.Tensor | None = None, *, bits: int = 8
) -> torch.Tensor:
    """y = x @ (w * w_scale)' + bias, in float32 (float64 for float64), rounded once to x's dtype.

    x: (..., K). w: int8 (N, K), codes of -8 to 7 where bits is 4. w_scale: float32 (N,), or (N, G) for groups of K / G
    neighbours along K. bias: float32 (N,) or (1,). Raises ShapeError when the operands do not fit.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    product = x.to(wide) @ dequantized(w, w_scale, wide).t()
    y: torch.Tensor = (product if bias is None else product.add_(bias)).to(x.dtype)
    return y


@kernel("WeightOnlyGroupedMatmul", domain="porting", owns_result=True, streams=(1,))
def weight_only_grouped_matmul(
    x: torch.Tensor,
    w: ExpertWeights,
    w_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    bits: int = 8,
) -> torch.Tensor:
    """The same for runs of rows: x (M, K), w int8 (E, N, K), w_scale (E, N) or (E, N, G), bias (E, N) or (E, 1).

    offsets: int64 (E,), the end of each expert's rows. One expert's weights are dequantized at a time.
    """
    experts, n, k = w.shape
    if x.ndim != 2 or x.shape[1] != k:
        raise ShapeError("operands of a grouped product do not fit", required=f"(M, {k})", met=tuple(x.shape))
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.new_empty(x.shape[0], n)
    for expert, rows in runs(offsets, experts, x.shape[0]):
        product = x[rows].to(wide) @ dequantized(w[expert], w_scale[expert], wide).t()
        y[rows] = (product if bias is None else product.add_(bias[expert])).to(x.dtype)
    return y


def dequantized(w: torch.Tensor, w_scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """w * w_scale. w: int8 (N, K). w_scale: (N,) or (N, G). Returns (N, K) of ``dtype``."""
    n, k = w.shape
    if w_scale.shape[:1] != (n,) or w_scale.numel() == 0 or k % (w_scale.numel() // n):
        raise ShapeError(
            "scales do not fit the weight", required=f"({n},) or ({n}, a divisor of {k})", met=w_scale.shape
        )
    scales = w_scale.reshape(n, -1, 1).to(dtype)
    return (w.to(dtype).reshape(n, scales.shape[1], -1) * scales).reshape(n, k)
