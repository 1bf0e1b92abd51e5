"""Sum and Mean of several operands by Add; Dropout and CastLike by what they are at inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import EXACT, Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import only_first_output, operand, required, small_constant

_THREE = case("three", Run((3, 5)), Run((5,)), Run((3, 1)))


def _sum(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Left to right, as the stock runtime adds."""
    total = required(node, 0)
    for index in range(1, len(node.inputs)):
        total = b.Add(total, required(node, index))
    return [total]


def _mean(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    total = _sum(b, node)[0]
    return [b.Mul(total, b.scalar(1.0 / len(node.inputs), total))] if len(node.inputs) > 1 else [total]


def _input(b: Builder, node: ir.Node) -> Sequence[ir.Value | None]:
    return [required(node, 0), *([None] * (len(node.outputs) - 1))]


def _inference(node: ir.Node, opset: int) -> str | None:
    mode = operand(node, 2)
    flag = small_constant(mode)
    if mode is not None and (flag is None or bool(flag.any())):
        return "training_mode is not a constant false"
    return only_first_output(node)


def _cast_like(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    rounding = {name: attr.value for name, attr in node.attributes.items()}
    return [b.Cast(required(node, 0), to=b.dtype_of(required(node, 1)).value, **rounding)]


DECOMPOSITIONS = (
    Decomposition("sum_by_add", "Sum", _sum, EXACT, examples("Sum", _THREE, dtypes=(ir.DataType.FLOAT,))),
    Decomposition(
        "mean_by_add",
        "Mean",
        _mean,
        Contract("tolerance", 5e-7, "1/n is rounded before it is multiplied"),
        examples("Mean", _THREE, dtypes=(ir.DataType.FLOAT,)),
    ),
    Decomposition(
        "dropout_at_inference",
        "Dropout",
        _input,
        EXACT,
        examples(
            "Dropout",
            case("plain", Run((3, 5))),
            Case("training", (Run((3, 5)), np.array(0.5, np.float32), np.array(True)), applies=False, opsets=(13,)),
        ),
        _inference,
    ),
    Decomposition(
        "cast_like_by_cast",
        "CastLike",
        _cast_like,
        EXACT,
        examples(
            "CastLike", case("to double", Run((3, 5)), Run((1,), ir.DataType.DOUBLE)), dtypes=(ir.DataType.FLOAT,)
        ),
    ),
)
