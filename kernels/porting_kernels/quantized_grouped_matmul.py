"""porting::QuantizedGroupedMatmul, runs of int8 rows times int8 or int4 weights of their own."""

from __future__ import annotations

import torch

from porting_kernels.dtypes import torch_dtype
from porting_kernels.errors import ShapeError
from porting_kernels.grouped_matmul import ExpertWeights, runs
from porting_kernels.quantized_matmul import check_rows, finished, scaled_product
from porting_kernels.registry import Context, kernel


@kernel("QuantizedGroupedMatmul", domain="porting", owns_result=True, streams=(2,))
def quantized_grouped_matmul(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    w: ExpertWeights,
    w_scale: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    to: int = 1,
    bits: int = 8,
    context: Context,
) -> torch.Tensor:
    """y[r] = (sum_g float32(a_g[r] @ w_g[e]') * w_scale[e, :, g]) * a_scale[r] + bias[e] for each row r of expert e.

    a: int8 (M, K). a_scale: float32 (M,). w: int8 (E, N, K). w_scale: float32 (E, N), or (E, N, G) for groups of K / G
    neighbours. offsets: int64 (E,), the end of each expert's rows. bias: float32 (E, N) or (E, 1). bits 4: the codes
    of w lie in -8 to 7. to: ONNX code of y, (M, N), rounded once. Raises ShapeError when the operands do not fit.
    """
    experts, n, k = w.shape
    check_rows(a, a_scale, k)
    if tuple(w_scale.shape[:2]) != (experts, n) or w_scale.ndim > 3:
        raise ShapeError("scales do not fit", required=f"({experts}, {n}) or ({experts}, {n}, G)", met=w_scale.shape)
    scales = w_scale.reshape(experts, n, -1)
    y = torch.empty(a.shape[0], n, dtype=torch.float64 if context.numerics.float64 else torch_dtype(to))
    for expert, rows in runs(offsets, experts, a.shape[0]):
        part = scaled_product(a[rows], w[expert], scales[expert], context.numerics.float64)
        part = part.mul_(a_scale[rows].unsqueeze(1))
        y[rows] = finished(part if bias is None else part.add_(bias[expert]), to, context)
    return y
