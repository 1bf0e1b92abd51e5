"""MatMul by Gemm or matrix by matrix, Gemm by MatMul, and Gemm with transposes or factors by plain Gemm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder, BuildError
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import constant_tensor, dims_of
from porting_passes.node_facts import attribute, number, operand, rank, required, reshape_target, static_dims

_SUMS = Contract("tolerance", 2e-6, "sums in another order", nonfinite=False)
_FACTOR = Contract("tolerance", 4e-6, "alpha and beta are applied in another place", nonfinite=False)
_WEIGHT = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)


def transposed(b: Builder, value: ir.Value) -> ir.Value:
    """The transpose of a matrix; that of a constant is a new constant, made when it is first read."""
    tensor = constant_tensor(value)
    if tensor is None:
        return b.Transpose(value, perm=[1, 0])
    rows, columns = tensor.shape.numpy()
    return b.derived(tensor, [columns, rows], np.transpose)


def _matrices(node: ir.Node, opset: int) -> str | None:
    """MatMul of rank >= 1 by a matrix, with extents that Reshape can restore."""
    ranks = rank(node.inputs[0]), rank(node.inputs[1])
    if ranks[1] != 2 or ranks[0] is None:
        return "the second operand is not known to be a matrix"
    if ranks[0] == 1:
        return "the first operand is a vector"
    dtype = required(node, 0).dtype
    if dtype is None or not dtype.is_floating_point():
        return "the operands are not known to be floating point"
    target = _result_target(node)
    return target if isinstance(target, str) else None


def _result_target(node: ir.Node) -> list[int] | str:
    x, w = dims_of(required(node, 0)) or (), dims_of(required(node, 1)) or ()
    if len(x) <= 2:
        return []
    if not isinstance(x[-1], int) and not isinstance(w[0], int):
        return "the contracted extent is unknown"
    target = reshape_target(required(node, 0), x[:-1])
    if isinstance(target, str):
        return target
    if isinstance(w[1], int):
        return [*target, w[1]]
    return "the extent of the result is unknown" if -1 in target else [*target, -1]


def _matmul_by_gemm(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """[..., K] @ [K, N]: Reshape to [-1, K], Gemm, Reshape back. Symbols are not copied through the flat form."""
    x, w = required(node, 0), required(node, 1)
    if rank(x) == 2:
        return [b.Gemm(x, w)]
    target = _result_target(node)
    assert not isinstance(target, str), target
    contracted = next(d for d in ((dims_of(x) or ())[-1], (dims_of(w) or ())[0]) if isinstance(d, int))
    unknown = [i for i, extent in enumerate(target) if extent <= 0]
    if len(unknown) > 1:
        raise BuildError("more than one extent of the result is unknown")
    target = [-1 if i in unknown else extent for i, extent in enumerate(target)]
    return [b.reshape(b.Gemm(b.reshape(x, [-1, contracted]), w), target)]


_BATCHES = 64
"""Products up to which a batched one is written as single ones."""


def _batch(node: ir.Node) -> tuple[int, tuple[int, ...], tuple[int, ...]] | str:
    """Number of products and the extents of both operands when both are batches of the same known extents."""
    a, w = static_dims(node.inputs[0]), static_dims(node.inputs[1])
    if a is None or w is None:
        return "an extent is unknown"
    if len(a) < 3 or a[:-2] != w[:-2]:
        return "the operands are not batches of the same extents"
    count = math.prod(a[:-2])
    return (count, a, w) if 1 <= count <= _BATCHES else f"there are {count} products, more than {_BATCHES}"


def _batch_applies(node: ir.Node, opset: int) -> str | None:
    found = _batch(node)
    return found if isinstance(found, str) else None


def _matmul_by_batches(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Both operands cut into matrices, multiplied one by one, and put together again."""
    found = _batch(node)
    assert not isinstance(found, str), found
    count, a, w = found
    left = b.split(b.reshape(required(node, 0), [count * a[-2], a[-1]]), [a[-2]] * count, 0)
    right = b.split(b.reshape(required(node, 1), [count * w[-2], w[-1]]), [w[-2]] * count, 0)
    products = [b.MatMul(x, y) for x, y in zip(left, right, strict=True)]
    return [b.reshape(b.Concat(*products, axis=0), [*a[:-1], w[-1]])]


def _product(b: Builder, node: ir.Node) -> tuple[ir.Value, ir.Value]:
    a, w = required(node, 0), required(node, 1)
    left = b.Transpose(a, perm=[1, 0]) if attribute(node, "transA", 0) else a
    return left, transposed(b, w) if attribute(node, "transB", 0) else w


def _scaled(b: Builder, x: ir.Value, factor: float) -> ir.Value:
    return x if factor == 1.0 else b.Mul(x, b.scalar(factor, x))


def _gemm_by_matmul(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    left, right = _product(b, node)
    y, bias = _scaled(b, b.MatMul(left, right), number(node, "alpha", 1.0)), operand(node, 2)
    return [y if bias is None else b.Add(y, _scaled(b, bias, number(node, "beta", 1.0)))]


def _adorned(node: ir.Node, opset: int) -> str | None:
    plain = not attribute(node, "transA", 0) and not attribute(node, "transB", 0)
    unit = number(node, "alpha", 1.0) == 1.0 and (operand(node, 2) is None or number(node, "beta", 1.0) == 1.0)
    return "it has no transposes and no factors" if plain and unit else None


def _plain_gemm(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    left, right = _product(b, node)
    bias = operand(node, 2)
    scaled = None if bias is None else _scaled(b, bias, number(node, "beta", 1.0))
    return [b.Gemm(_scaled(b, left, number(node, "alpha", 1.0)), right, scaled)]


DECOMPOSITIONS = (
    Decomposition(
        "matmul_by_gemm",
        "MatMul",
        _matmul_by_gemm,
        _SUMS,
        examples(
            "MatMul",
            case("batch", Run((2, 3, 4)), _WEIGHT),
            case("matrix", Run((3, 4)), Run((4, 5))),
            Case("batched right", (Run((2, 3, 4)), Run((2, 4, 5))), applies=False, opsets=(13,)),
        ),
        _matrices,
    ),
    Decomposition(
        "matmul_by_batches",
        "MatMul",
        _matmul_by_batches,
        _SUMS,
        examples(
            "MatMul",
            case("heads", Run((1, 2, 3, 4)), Run((1, 2, 4, 5))),
            Case("broadcast", (Run((2, 3, 4)), _WEIGHT), applies=False, opsets=(13,)),
        ),
        _batch_applies,
        last_resort=True,
    ),
    Decomposition(
        "gemm_by_matmul",
        "Gemm",
        _gemm_by_matmul,
        _FACTOR,
        examples(
            "Gemm",
            case("transposed weight", Run((3, 5)), _WEIGHT, _WEIGHT[:, 0], transB=1),
            case("factors", Run((4, 3)), _WEIGHT, np.ones(5, np.float32), transA=1, alpha=0.5, beta=2.0),
            case("no bias", Run((3, 4)), _WEIGHT),
        ),
    ),
    Decomposition(
        "gemm_plain",
        "Gemm",
        _plain_gemm,
        _FACTOR,
        examples(
            "Gemm",
            case("transposed weight", Run((3, 5)), _WEIGHT, _WEIGHT[:, 0], transB=1),
            case("factors", Run((4, 3)), _WEIGHT, np.ones(5, np.float32), transA=1, alpha=0.5, beta=2.0),
            Case("plain", (Run((3, 4)), _WEIGHT), applies=False, opsets=(13,)),
        ),
        _adorned,
    ),
)
