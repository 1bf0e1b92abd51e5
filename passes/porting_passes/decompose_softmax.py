"""Softmax and LogSoftmax by Exp and ReduceSum, by each other, and along the last axis only."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import attribute, rank, required

_SUMS = Contract("tolerance", 2e-6, "sums in another order; infinite inputs cancel to NaN", nonfinite=False)
_FLOAT = (ir.DataType.FLOAT,)


def _axis(node: ir.Node, opset: int) -> int | None:
    """The one axis that is normalized; None when it is unknown or, below opset 13, the node flattens several."""
    dims = rank(node.inputs[0])
    if dims is None:
        return None
    axis: int = attribute(node, "axis", -1 if opset >= 13 else 1) % dims
    return axis if opset >= 13 or axis == dims - 1 else None


def _applies(node: ir.Node, opset: int) -> str | None:
    return None if _axis(node, opset) is not None else "it does not normalize one known axis"


def _not_last(node: ir.Node, opset: int) -> str | None:
    axis, dims = _axis(node, opset), rank(node.inputs[0])
    if axis is None or dims is None:
        return "it does not normalize one known axis"
    return "it normalizes the last axis" if axis == dims - 1 else None


def _shifted(b: Builder, node: ir.Node) -> tuple[ir.Value, list[int]]:
    x, axis = required(node, 0), _axis(node, b.opset)
    assert axis is not None
    return b.Sub(x, b.reduce("ReduceMax", x, [axis])), [axis]


def _softmax_by_exp(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    shifted, axes = _shifted(b, node)
    power = b.Exp(shifted)
    return [b.Div(power, b.reduce("ReduceSum", power, axes))]


def _log_softmax_by_exp(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """x - max - log(sum(exp(x - max))): the logarithm of Softmax would lose all that Softmax rounds to 0."""
    shifted, axes = _shifted(b, node)
    return [b.Sub(shifted, b.Log(b.reduce("ReduceSum", b.Exp(shifted), axes)))]


def _on_last_axis(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, axis = required(node, 0), _axis(node, b.opset)
    assert axis is not None
    perm = list(range(b.rank_of(x)))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    return [b.transpose(b.softmax(b.transpose(x, perm), -1, op_type=node.op_type), perm)]


DECOMPOSITIONS = (
    *(
        Decomposition(
            f"{op_type.lower()}_on_last_axis",
            op_type,
            _on_last_axis,
            Contract("tolerance", 1e-6, "sums in another order", nonfinite=False),
            examples(
                op_type,
                Case("middle", (Run((2, 3, 5)),), {"axis": 1}, opsets=(13, 18)),
                Case("last", (Run((2, 3, 5)),), {"axis": 2}, applies=False, opsets=(13,)),
                dtypes=_FLOAT,
            ),
            _not_last,
        )
        for op_type in ("Softmax", "LogSoftmax")
    ),
    *(
        Decomposition(
            name,
            op_type,
            build,
            _SUMS,
            examples(
                op_type,
                case("last", Run((2, 3, 5)), axis=-1),
                Case("middle", (Run((2, 3, 5)),), {"axis": 1}, opsets=(13, 18)),
                Case("flattening", (Run((2, 3, 5)),), {"axis": 1}, applies=False, opsets=(11,)),
                dtypes=_FLOAT,
            ),
            _applies,
        )
        for name, op_type, build in (
            ("softmax_by_exp", "Softmax", _softmax_by_exp),
            ("log_softmax_by_exp", "LogSoftmax", _log_softmax_by_exp),
        )
    ),
)
