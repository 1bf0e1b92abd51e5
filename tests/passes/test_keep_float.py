"""Which nodes stay in float, and why."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.keep_float import keep_float
from porting_passes.quantization_style import KeepFloat, QuantizationStyle

STYLE = QuantizationStyle(
    operators=("Gemm",),
    activation="symmetric",
    weight={"Gemm": "tensor"},
    depthwise="tensor",
    bias="int32",
    parameters="reciprocal_scale",
    carrier="nodes",
    keep_float=(
        KeepFloat("Gemm", "attr('alpha') != 1", "a factor", "doc"),
        KeepFloat("Gemm", "rank(C) == 2", "a bias of rank 2", "doc"),
        KeepFloat("MatMul", "True", "never", "doc"),
    ),
)


def gemm(bias: list[int] | None, **attributes: float) -> ir.Node:
    inputs = [ir.Value(name=n, shape=ir.Shape([2, 2])) for n in "ab"]
    inputs.append(ir.Value(name="c", shape=None if bias is None else ir.Shape(bias)))
    return ir.node("Gemm", inputs, attributes)


def test_no_rule_covers_the_node() -> None:
    assert keep_float(gemm([2]), STYLE, 17) is None


def test_the_first_rule_that_covers_it_speaks() -> None:
    found = keep_float(gemm([2, 2], alpha=0.5), STYLE, 17)
    assert found is not None
    assert found.reason == "a factor"


def test_what_cannot_be_told_stays_in_float() -> None:
    found = keep_float(gemm(None), STYLE, 17)
    assert found is not None
    assert found.reason == "a bias of rank 2"


def test_operators_without_rules_are_not_covered() -> None:
    assert keep_float(ir.node("Conv", [ir.Value(name="x")]), STYLE, 17) is None
