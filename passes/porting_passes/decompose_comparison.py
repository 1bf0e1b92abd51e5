"""GreaterOrEqual, LessOrEqual, Greater and Less by each other, Not, Or and Equal."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import EXACT, Contract
from porting_passes.decomposition import Decomposition, Run, case, examples
from porting_passes.node_facts import required

_NAN = Contract("exact", reason="not (x < y) is true where an operand is NaN, and x >= y is false", nonfinite=False)
_ROWS = case("rows", Run((3, 5)), Run((5,)))


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    return required(node, 0), required(node, 1)


def _greater_or_equal(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, y = _operands(node)
    return [b.Or(b.Greater(x, y), b.Equal(x, y))]


def _less_or_equal(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, y = _operands(node)
    return [b.Or(b.Less(x, y), b.Equal(x, y))]


def _not_less(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Not(b.Less(*_operands(node)))]


def _not_greater(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Not(b.Greater(*_operands(node)))]


def _swapped(op_type: str, other: str) -> Decomposition:
    def build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
        x, y = _operands(node)
        return [b.emit(other, [y, x])[0]]

    name = f"{op_type.lower()}_swapped"
    return Decomposition(name, op_type, build, EXACT, examples(op_type, _ROWS, dtypes=(ir.DataType.FLOAT,)))


DECOMPOSITIONS = (
    _swapped("Greater", "Less"),
    _swapped("Less", "Greater"),
    _swapped("GreaterOrEqual", "LessOrEqual"),
    _swapped("LessOrEqual", "GreaterOrEqual"),
    Decomposition(
        "greater_or_equal_by_or", "GreaterOrEqual", _greater_or_equal, EXACT, examples("GreaterOrEqual", _ROWS)
    ),
    Decomposition("less_or_equal_by_or", "LessOrEqual", _less_or_equal, EXACT, examples("LessOrEqual", _ROWS)),
    Decomposition(
        "greater_or_equal_by_not",
        "GreaterOrEqual",
        _not_less,
        _NAN,
        examples("GreaterOrEqual", _ROWS),
        last_resort=True,
    ),
    Decomposition(
        "less_or_equal_by_not", "LessOrEqual", _not_greater, _NAN, examples("LessOrEqual", _ROWS), last_resort=True
    ),
)
