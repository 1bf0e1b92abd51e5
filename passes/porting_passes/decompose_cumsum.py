"""CumSum by a product with a triangle of ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, operand, required, small_constant

LONGEST = 1024
"""Extent up to which the triangle is worth its size."""


def _axis(node: ir.Node) -> tuple[int, int, int] | str:
    """Rank, axis and its extent, or why these are unknown."""
    axis, dims = small_constant(operand(node, 1)), dims_of(required(node, 0))
    if axis is None or axis.size != 1 or dims is None:
        return "the axis or the rank is unknown"
    index = int(axis.reshape(())) % len(dims)
    extent = dims[index]
    if not isinstance(extent, int):
        return "the extent of the axis is unknown"
    return (len(dims), index, extent) if extent <= LONGEST else f"the axis is longer than {LONGEST}"


def _applies(node: ir.Node, opset: int) -> str | None:
    dtype, axis = required(node, 0).dtype, _axis(node)
    if dtype is None or not dtype.is_floating_point():
        return "the operand is not known to be floating point"
    return axis if isinstance(axis, str) else None


def _build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """x @ T along the axis: T[i, j] is 1 where element i takes part in sum j."""
    axis, x = _axis(node), required(node, 0)
    assert not isinstance(axis, str), axis
    rank, index, extent = axis
    triangle = np.triu(np.ones((extent, extent)), int(attribute(node, "exclusive", 0)))
    if attribute(node, "reverse", 0):
        triangle = triangle.T
    perm = list(range(rank))
    perm[index], perm[-1] = perm[-1], perm[index]
    summed = b.MatMul(b.transpose(x, perm), b.constant(triangle, b.dtype_of(x)))
    return [b.transpose(summed, perm)]


_AXIS = np.array(1, np.int64)

DECOMPOSITIONS = (
    Decomposition(
        "cumsum_by_matmul",
        "CumSum",
        _build,
        Contract("tolerance", 2e-6, "sums in another order; 0 * infinity is NaN", nonfinite=False),
        examples(
            "CumSum",
            case("forward", Run((2, 5, 3)), _AXIS),
            case("exclusive", Run((2, 5)), _AXIS, exclusive=1),
            case("reverse", Run((2, 5)), _AXIS, reverse=1),
            case("both", Run((2, 5)), _AXIS, reverse=1, exclusive=1),
            Case("long", (Run((2, LONGEST + 1)), _AXIS), applies=False, opsets=(14,)),
            dtypes=(ir.DataType.FLOAT,),
        ),
        _applies,
    ),
)
