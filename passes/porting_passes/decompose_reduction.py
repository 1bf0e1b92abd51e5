"""ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSum(Exp), ReduceMean, ReduceMin and ArgMin by simpler operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, operand, rank, required, small_constant


def reduction_axes(node: ir.Node, dims: int | None = None) -> list[int] | str:
    """The non-negative axes that a reduction runs over, in ascending order, or why they are not known.

    dims: the rank of the input, where the caller knows it better than the model.
    """
    dims = rank(node.inputs[0]) if dims is None else dims
    if dims is None:
        return "the rank of the input is unknown"
    axes, noop = attribute(node, "axes"), attribute(node, "noop_with_empty_axes", 0)
    given = operand(node, 1)
    if axes is None and given is not None:
        constant = small_constant(given)
        if constant is None:
            return "the axes are not a constant"
        axes = constant.tolist()
    if not axes:
        return [] if noop else list(range(dims))
    return sorted(axis % dims for axis in axes)


def _applies(node: ir.Node, opset: int) -> str | None:
    axes = reduction_axes(node)
    if isinstance(axes, str):
        return axes
    dtype = required(node, 0).dtype
    if dtype is None or not dtype.is_floating_point():
        return "the operand is not known to be floating point"
    return None if axes else "no axis is reduced"


def _reduce(b: Builder, op_type: str, x: ir.Value, node: ir.Node) -> ir.Value:
    axes = reduction_axes(node)
    assert not isinstance(axes, str), axes
    return b.reduce(op_type, x, axes, keepdims=bool(attribute(node, "keepdims", 1)))


def _l1(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [_reduce(b, "ReduceSum", b.Abs(required(node, 0)), node)]


def _sum_square(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [_reduce(b, "ReduceSum", b.Mul(x, x), node)]


def _l2(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Sqrt(_sum_square(b, node)[0])]


def _log_sum(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Log(_reduce(b, "ReduceSum", required(node, 0), node))]


def _log_sum_exp(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """max + log(sum(exp(x - max))), which does not overflow."""
    x, axes = required(node, 0), reduction_axes(node)
    assert not isinstance(axes, str), axes
    top = b.reduce("ReduceMax", x, axes)
    total = b.Add(b.Log(b.reduce("ReduceSum", b.Exp(b.Sub(x, top)), axes)), top)
    return [total if attribute(node, "keepdims", 1) else b.squeeze(total, axes)]


def _count(node: ir.Node) -> int | None:
    """How many elements one result stands for, where every reduced extent is a number."""
    axes, dims = reduction_axes(node), dims_of(required(node, 0))
    if isinstance(axes, str) or dims is None:
        return None
    extents = [d for d in (dims[a] for a in axes) if isinstance(d, int)]
    return math.prod(extents) if len(extents) == len(axes) and all(extents) else None


def _mean_applies(node: ir.Node, opset: int) -> str | None:
    return _applies(node, opset) or (None if _count(node) is not None else "a reduced extent is unknown")


def _mean(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Scaled before summing: the sum of narrow floats would overflow where their mean does not."""
    x = required(node, 0)
    return [_reduce(b, "ReduceSum", b.Mul(x, b.scalar(1.0 / (_count(node) or 1), x)), node)]


def _spatial(node: ir.Node, opset: int) -> str | None:
    problem = _applies(node, opset)
    if problem:
        return problem
    dims = rank(node.inputs[0]) or 0
    whole = dims >= 3 and reduction_axes(node) == list(range(2, dims))
    return None if whole else "it does not reduce all axes after the second, and only these"


def _mean_by_pool(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    pooled = b.GlobalAveragePool(x)
    return [pooled if attribute(node, "keepdims", 1) else b.squeeze(pooled, range(2, b.rank_of(x)))]


def _max_by_pool(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    pooled = b.GlobalMaxPool(x)
    return [pooled if attribute(node, "keepdims", 1) else b.squeeze(pooled, range(2, b.rank_of(x)))]


def _min(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Neg(_reduce(b, "ReduceMax", b.Neg(required(node, 0)), node))]


def _is_float(node: ir.Node, opset: int) -> str | None:
    dtype = required(node, 0).dtype
    return None if dtype is not None and dtype.is_floating_point() else "the operand is not known to be floating point"


def _arg_min(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.ArgMax(b.Neg(required(node, 0)), **{name: attr.value for name, attr in node.attributes.items()})]


def _cases(op_type: str, **options: Any) -> Any:
    """Axes as an attribute (to opset 12 or 17) and input (from 13 or 18 on), each where it is valid."""
    axes = np.array([1], np.int64)
    return examples(
        op_type,
        Case("axes attribute", (Run((3, 5, 2)),), {"axes": [-2], "keepdims": 0}, opsets=(11, 13)),
        Case("axes input", (Run((3, 5, 2)), axes), {"keepdims": 0}, opsets=(13, 18, 24)),
        case("all axes", Run((3, 5))),
        **options,
    )


_FLOAT = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_SQUARES = "sums in another order; squares may overflow"

DECOMPOSITIONS = (
    Decomposition(
        "reduce_l1_by_abs",
        "ReduceL1",
        _l1,
        Contract("tolerance", 1e-6, "sums in another order", nonfinite=False),
        _cases("ReduceL1", dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "reduce_l2_by_sqrt",
        "ReduceL2",
        _l2,
        Contract("tolerance", 1e-6, _SQUARES, nonfinite=False),
        _cases("ReduceL2", dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "reduce_sum_square_by_mul",
        "ReduceSumSquare",
        _sum_square,
        Contract("tolerance", 1e-6, _SQUARES, nonfinite=False),
        _cases("ReduceSumSquare", dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "reduce_log_sum_by_log",
        "ReduceLogSum",
        _log_sum,
        Contract(
            "tolerance", 1e-6, "sums in another order; the logarithm of a sum near 0 magnifies that", nonfinite=False
        ),
        _cases("ReduceLogSum", dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "reduce_log_sum_exp_by_max",
        "ReduceLogSumExp",
        _log_sum_exp,
        Contract("tolerance", 1e-6, "sums in another order; infinities cancel to NaN", nonfinite=False),
        _cases("ReduceLogSumExp", dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "reduce_mean_by_pool",
        "ReduceMean",
        _mean_by_pool,
        Contract("tolerance", 1e-6, "sums in another order", nonfinite=False),
        examples(
            "ReduceMean",
            Case("axes attribute", (Run((2, 3, 4, 5)),), {"axes": [2, 3]}, opsets=(11, 13)),
            Case("axes input", (Run((2, 3, 4, 5)), np.array([-1, -2], np.int64)), {"keepdims": 0}),
            Case("last only", (Run((2, 3, 4, 5)), np.array([3], np.int64)), applies=False, opsets=(18,)),
            dtypes=(ir.DataType.FLOAT,),
        ),
        _spatial,
    ),
    Decomposition(
        "reduce_mean_by_sum",
        "ReduceMean",
        _mean,
        Contract("tolerance", 1e-6, "1/n is rounded before it is multiplied; sums in another order", nonfinite=False),
        _cases("ReduceMean", dtypes=_FLOAT),
        _mean_applies,
    ),
    Decomposition(
        "reduce_max_by_pool",
        "ReduceMax",
        _max_by_pool,
        Contract("ulp", 1, "equal but for the sign of a zero; a maximum over NaN is not specified", nonfinite=False),
        examples(
            "ReduceMax",
            Case("axes attribute", (Run((2, 3, 4, 5)),), {"axes": [2, 3]}, opsets=(11, 13)),
            Case("axes input", (Run((2, 3, 4, 5)), np.array([-1, -2], np.int64)), {"keepdims": 0}),
            dtypes=(ir.DataType.FLOAT,),
        ),
        _spatial,
    ),
    Decomposition(
        "reduce_min_by_max",
        "ReduceMin",
        _min,
        Contract("ulp", 1, "equal but for the sign of a zero; a minimum over NaN is not specified", nonfinite=False),
        _cases("ReduceMin", dtypes=_FLOAT),
        _applies,
    ),
    Decomposition(
        "arg_min_by_arg_max",
        "ArgMin",
        _arg_min,
        Contract("exact", reason="an extremum over NaN is not specified", nonfinite=False),
        examples("ArgMin", case("rows", Run((3, 5)), axis=1, keepdims=0), dtypes=_FLOAT),
        _is_float,
    ),
)
