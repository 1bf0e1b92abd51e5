"""porting::IntegerMatMul, the exact int8 matrix product with an int32 accumulator."""

from __future__ import annotations

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.exact_integer import int8_product
from porting_kernels.registry import kernel


@kernel("IntegerMatMul", domain="porting")
def integer_matmul(
    a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None, *, a_zero_point: int = 0
) -> torch.Tensor:
    """int32 product of (a - a_zero_point) with b plus bias.

    a: int8 (..., K), rank 2 or more. b: int8 (K, N). bias: int32 (N,) or (1,). Returns int32 (..., N); sums beyond
    int32 wrap. Raises ShapeError when the operands do not fit.
    """
    if a.ndim < 2 or b.ndim != 2 or a.shape[-1] != b.shape[0]:
        raise ShapeError("operands do not fit", required="(..., K) and (K, N)", met=(tuple(a.shape), tuple(b.shape)))
    acc = int8_product(a.reshape(-1, a.shape[-1]), b)
    if a_zero_point:
        acc = acc - (b.sum(dim=0, dtype=torch.int64) * a_zero_point).to(torch.int32)
    acc = acc.reshape(*a.shape[:-1], b.shape[1])
    return acc if bias is None else acc + bias
