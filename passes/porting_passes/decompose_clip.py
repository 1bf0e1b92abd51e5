"""Clip, Max and Min by each other, by Relu, by Where and by reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import EXACT, Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import operand, required, small_constant, static_dims

_NAN = Contract("ulp", 1, "equal but for the sign of a zero; which operand wins over NaN differs", nonfinite=False)
_ROWS = (Run((3, 5)), Run((5,)))


def _clip_by_max_min(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    y, low, high = required(node, 0), operand(node, 1), operand(node, 2)
    if low is not None:
        y = b.Max(y, low)
    return [y if high is None else b.Min(y, high)]


def _from_zero(node: ir.Node, opset: int) -> str | None:
    low = small_constant(operand(node, 1))
    if low is None or low.size != 1 or low.flat[0] != 0:
        return "the lower bound is not a constant 0"
    high = small_constant(operand(node, 2))
    unbounded = operand(node, 2) is None or (high is not None and bool(np.isposinf(high.astype(np.float64)).all()))
    return None if unbounded else "there is an upper bound"


def _clip_by_relu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Relu(required(node, 0))]


def _binary_chain(op_type: str) -> Callable[[Builder, ir.Node], Sequence[ir.Value]]:
    def build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
        """Of one operand: that operand."""
        result = required(node, 0)
        for index in range(1, len(node.inputs)):
            result = b.emit(op_type, [result, required(node, index)])[0]
        return [result]

    return build


def _not_two(node: ir.Node, opset: int) -> str | None:
    return None if len(node.inputs) != 2 else "it has two operands"


def _two(node: ir.Node, opset: int) -> str | None:
    return None if len(node.inputs) == 2 else "it does not have two operands"


def _two_floats(node: ir.Node, opset: int) -> str | None:
    dtype = required(node, 0).dtype
    return _two(node, opset) or (None if dtype is not None and dtype.is_floating_point() else "not floating point")


def _bound(node: ir.Node) -> tuple[int, ir.Value] | None:
    """The operand that is a constant of rank 0 (Clip takes no other bound), with its index."""
    for index, value in enumerate(node.inputs):
        constant = small_constant(value)
        if value is not None and constant is not None and constant.ndim == 0 and not np.isnan(float(constant)):
            return index, value
    return None


def _has_bound(node: ir.Node, opset: int) -> str | None:
    return _two(node, opset) or (None if _bound(node) else "neither operand is a constant scalar")


def _max_by_clip(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    found = _bound(node)
    assert found is not None
    return [b.Clip(required(node, 1 - found[0]), found[1])]


def _min_by_clip(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    found = _bound(node)
    assert found is not None
    return [b.Clip(required(node, 1 - found[0]), None, found[1])]


def _zero_bound(node: ir.Node, opset: int) -> str | None:
    problem = _has_bound(node, opset) or _two_floats(node, opset)
    found = _bound(node)
    return problem or (None if found and small_constant(found[1]) == 0 else "the constant is not 0")


def _max_by_relu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    found = _bound(node)
    assert found is not None
    return [b.Relu(required(node, 1 - found[0]))]


def _max_by_where(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, y = required(node, 0), required(node, 1)
    return [b.Where(b.Greater(x, y), x, y)]


def _min_by_where(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, y = required(node, 0), required(node, 1)
    return [b.Where(b.Less(x, y), x, y)]


def _same_dims(node: ir.Node, opset: int) -> str | None:
    problem = _two(node, opset)
    if problem is not None:
        return problem
    first, second = (static_dims(value) for value in node.inputs)
    return None if first is not None and first == second else "the extents are not equal"


def _by_stack(op_type: str) -> Callable[[Builder, ir.Node], Sequence[ir.Value]]:
    """The extremum over a new axis along which both operands stand."""

    def build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
        stacked = b.Concat(*(b.unsqueeze(required(node, index), [0]) for index in (0, 1)), axis=0)
        return [b.reduce(op_type, stacked, [0], keepdims=False)]

    return build


_ZERO, _SIX = np.array(0, np.float32), np.array(6, np.float32)
_SAFE = (ir.DataType.FLOAT,)

DECOMPOSITIONS = (
    Decomposition(
        "clip_by_relu",
        "Clip",
        _clip_by_relu,
        Contract(
            "ulp", 1, "equal but for the sign of a zero; what Relu makes of NaN is not specified", nonfinite=False
        ),
        examples(
            "Clip",
            case("half line", Run((3, 5)), _ZERO),
            Case("six", (Run((3, 5)), _ZERO, _SIX), applies=False, opsets=(13,)),
            dtypes=_SAFE,
        ),
        _from_zero,
    ),
    Decomposition(
        "clip_by_max_min",
        "Clip",
        _clip_by_max_min,
        _NAN,
        examples(
            "Clip",
            case("both", Run((3, 5)), _ZERO, _SIX),
            case("upper", Run((3, 5)), None, _SIX),
            case("neither", Run((3, 5))),
            dtypes=_SAFE,
        ),
    ),
    *(
        Decomposition(
            f"{op_type.lower()}_by_pairs",
            op_type,
            _binary_chain(op_type),
            EXACT,
            examples(
                op_type,
                case("three", *_ROWS, Run((3, 1))),
                case("one", Run((3, 5))),
                Case("two", _ROWS, applies=False, opsets=(13,)),
                dtypes=_SAFE,
            ),
            _not_two,
        )
        for op_type in ("Max", "Min")
    ),
    Decomposition(
        "max_by_relu", "Max", _max_by_relu, _NAN, examples("Max", case("zero", _ZERO, Run((3, 5)))), _zero_bound
    ),
    Decomposition(
        "max_by_clip",
        "Max",
        _max_by_clip,
        _NAN,
        examples("Max", case("bound", Run((3, 5)), _SIX), dtypes=_SAFE),
        _has_bound,
    ),
    Decomposition(
        "min_by_clip",
        "Min",
        _min_by_clip,
        _NAN,
        examples("Min", case("bound", Run((3, 5)), _SIX), dtypes=_SAFE),
        _has_bound,
    ),
    Decomposition("max_by_where", "Max", _max_by_where, _NAN, examples("Max", case("rows", *_ROWS)), _two),
    Decomposition("min_by_where", "Min", _min_by_where, _NAN, examples("Min", case("rows", *_ROWS)), _two),
    *(
        Decomposition(
            f"{op_type.lower()}_by_stack",
            op_type,
            _by_stack(f"Reduce{op_type}"),
            _NAN,
            examples(
                op_type,
                case("equal extents", Run((3, 5)), Run((3, 5))),
                Case("rows", _ROWS, applies=False, opsets=(13,)),
                Case("one operand", (Run((3, 5)),), applies=False, opsets=(13,)),
                dtypes=_SAFE,
            ),
            _same_dims,
        )
        for op_type in ("Max", "Min")
    ),
)
