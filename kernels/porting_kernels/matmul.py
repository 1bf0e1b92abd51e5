"""MatMul, Gemm, Einsum, MatMulInteger and Det.

Half precision accumulates in float32 and rounds once. Integer products are exact modulo the width of the type.
"""

from __future__ import annotations

import torch

from porting_kernels.exact_integer import contraction_dtype, to_int32
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel

_UNSIGNED = {torch.uint32: torch.int64, torch.uint64: torch.int64}


@kernel("MatMul")
@rounds_once
def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """numpy.matmul: the last two axes multiply, the others broadcast, vectors gain and lose an axis."""
    if a.dtype in _UNSIGNED:  # torch multiplies no unsigned matrices; the low bits of the signed product are the same
        wide = _UNSIGNED[a.dtype]
        return torch.matmul(a.to(wide), b.to(wide)).to(a.dtype)
    return torch.matmul(a, b)


@kernel("Gemm", since=7)
@rounds_once
def gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> torch.Tensor:
    """Alpha * A' B' + beta * C for matrices A, B and a C that broadcasts to the product. Source: ONNX operator Gemm.

    Integer matrices take the integer part of alpha and beta.
    """
    a = a.t() if transA else a
    b = b.t() if transB else b
    if not a.dtype.is_floating_point:
        product: torch.Tensor = int(alpha) * matmul(a, b)
        return product if c is None else product + int(beta) * c
    if c is not None:
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    product = torch.mm(a, b)
    return product if alpha == 1 else product.mul_(alpha)


@kernel("Gemm", since=1)
def gemm_1(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    broadcast: int = 0,
    transA: int = 0,
    transB: int = 0,
) -> torch.Tensor:
    """Gemm before opset 7, where broadcasting C had to be announced."""
    result: torch.Tensor = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return result


@kernel("Einsum", since=12)
@rounds_once
def einsum(*inputs: torch.Tensor, equation: str) -> torch.Tensor:
    """numpy.einsum of one or more inputs."""
    return torch.einsum(equation, *inputs)


@kernel("MatMulInteger", since=10)
def matmul_integer(
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero_point: torch.Tensor | None = None,
    b_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """Exact int32 product of (a - a_zero_point) and (b - b_zero_point), for int8 or uint8 operands.

    Zero points: scalar, or a vector with one entry a row of a or a column of b, or of a's or b's rank.
    Source: ONNX operator MatMulInteger.
    """
    a, b = a.to(torch.int32), b.to(torch.int32)
    if a_zero_point is not None:
        zero = a_zero_point.to(torch.int32)
        a = a - (zero.unsqueeze(-1) if zero.ndim == 1 and zero.numel() > 1 else zero)
    if b_zero_point is not None:
        b = b - b_zero_point.to(torch.int32)
    dtype = contraction_dtype(a, b, contracted=(-2 if b.ndim > 1 else 0,))
    return to_int32(torch.matmul(a.to(dtype), b.to(dtype)))


@kernel("Det", since=11)
@rounds_once
def determinant(x: torch.Tensor) -> torch.Tensor:
    """Determinant of the matrices in the last two axes."""
    result: torch.Tensor = torch.linalg.det(x)
    return result
