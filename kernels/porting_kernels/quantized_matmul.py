"""porting::QuantizedMatMul, rows of int8 codes times int8 weights, scaled by row and by output channel."""

from __future__ import annotations

import torch

from porting_kernels.dtypes import torch_dtype
from porting_kernels.errors import ShapeError
from porting_kernels.exact_integer import int8_product
from porting_kernels.registry import Context, kernel


@kernel("QuantizedMatMul", domain="porting", owns_result=True)
def quantized_matmul(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    w: torch.Tensor,
    w_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    to: int = 1,
    context: Context,
) -> torch.Tensor:
    """y = (float32(a @ w') * w_scale) * a_scale + bias, rounded once to ``to`` (an ONNX code).

    a: int8 (..., K), rank 2 or more. a_scale: float32 (...,), one a row. w: int8 (N, K). w_scale: float32 (N,). bias:
    float32 (N,) or (1,). The product is exact in int32. Raises ShapeError when the operands do not fit.
    """
    check_rows(a, a_scale, w.shape[-1])
    y = scaled_product(a.reshape(-1, a.shape[-1]), w, w_scale.reshape(w.shape[0], 1), context.numerics.float64)
    y = y.mul_(a_scale.reshape(-1, 1))
    if bias is not None:
        y = y.add_(bias)
    return finished(y, to, context).reshape(*a.shape[:-1], w.shape[0])


def check_rows(a: torch.Tensor, a_scale: torch.Tensor, k: int) -> None:
    """ShapeError unless a is (..., k) of rank 2 or more with one scale a row."""
    if a.ndim < 2 or a.shape[-1] != k or a_scale.shape != a.shape[:-1]:
        raise ShapeError(
            "operands of a quantized product do not fit",
            required=f"codes (..., {k}) of rank 2 or more, and a scale for each row",
            met=f"codes {tuple(a.shape)}, scales {tuple(a_scale.shape)}",
        )


def scaled_product(a: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, wide: bool) -> torch.Tensor:
    """sum over groups g of float(a_g @ w_g') * w_scale[:, g], added up in their order.

    a: int8 (M, K). w: int8 (N, K). w_scale: (N, G); a group is K / G neighbours along K. wide: add in float64 instead
    of float32. Returns (M, N). Raises ShapeError where K does not divide into the groups.
    """
    k, groups = a.shape[1], w_scale.shape[1]
    if groups == 0 or k % groups:
        raise ShapeError("groups do not divide the columns", required=f"a divisor of {k}", met=groups)
    dtype = torch.float64 if wide else torch.float32
    y: torch.Tensor | None = None
    for group, scale in enumerate(w_scale.to(dtype).unbind(1)):
        columns = slice(group * k // groups, (group + 1) * k // groups)
        part = int8_product(a[:, columns], w[:, columns].t()).to(dtype).mul_(scale)
        y = part if y is None else y.add_(part)
    assert y is not None
    return y


def finished(y: torch.Tensor, to: int, context: Context) -> torch.Tensor:
    """The result in the dtype that the node names; float64 as it is, in ref64 mode."""
    return y if context.numerics.float64 else y.to(torch_dtype(to))
