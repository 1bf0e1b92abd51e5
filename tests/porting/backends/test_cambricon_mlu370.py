"""What the data of cambricon-mlu370 says about real nodes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from porting import backends
from porting_passes.legality import Illegal, Legal, Unknown, check

SURFACE = backends.get("cambricon-mlu370").surface()
SET = SURFACE.operator_set


def value(name: str, dtype: ir.DataType, shape: list[Any]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def node(op_type: str, *inputs: ir.Value | None, dtype: ir.DataType = ir.DataType.FLOAT, **attributes: Any) -> ir.Node:
    made = ir.node(op_type, list(inputs), attributes)
    made.outputs[0].dtype = dtype
    return made


X = value("x", ir.DataType.FLOAT, [1, 8, 16, 16])
FLAT = value("flat", ir.DataType.FLOAT, [8, 8])
LONG = value("long", ir.DataType.INT64, [4])

CASES = {
    "conv": (node("Conv", X, X), Legal),
    "conv 1-D": (node("Conv", value("x", ir.DataType.FLOAT, [1, 8, 16]), X), Unknown),
    "conv auto_pad": (node("Conv", X, X, auto_pad="SAME_UPPER"), Unknown),
    "conv float64": (node("Conv", value("x", ir.DataType.DOUBLE, [1, 8, 16, 16]), X), Illegal),
    "bfloat16": (node("Relu", value("x", ir.DataType.BFLOAT16, [1])), Illegal),
    "gemm": (node("Gemm", FLAT, FLAT), Legal),
    "gemm alpha": (node("Gemm", FLAT, FLAT, alpha=0.5), Unknown),
    "matmul": (node("MatMul", FLAT, FLAT), Legal),
    "batched matmul": (node("MatMul", X, X), Unknown),
    "int64 counts as int32": (node("Gather", LONG, LONG, dtype=ir.DataType.INT64), Legal),
    "resize linear": (node("Resize", X, LONG, LONG, mode="linear"), Legal),
    "resize cubic": (node("Resize", X, LONG, LONG, mode="cubic"), Unknown),
    "resize nearest": (node("Resize", X, LONG, LONG, mode="nearest"), Unknown),
    "clip": (node("Clip", X), Legal),
    "unlisted": (node("Erf", X), Unknown),
    "library only": (node("Sqrt", X), Unknown),
}


@pytest.mark.parametrize("case", CASES)
def test_verdict(case: str) -> None:
    made, verdict = CASES[case]
    assert isinstance(check(made, SET, 11), verdict)


def test_a_library_function_does_not_make_a_node_legal_and_is_told() -> None:
    verdict = check(node("Sqrt", X), SET, 11)
    assert isinstance(verdict, Unknown)
    assert "mluOpSqrt" in verdict.reasons[0].met


def test_operators_that_opset_11_lacks_have_no_row() -> None:
    assert not {"Gelu", "LayerNormalization", "GreaterOrEqual", "DeformConv"} & {row.operator for row in SET.rows}
    assert (SURFACE.opset, {row.opset for row in SET.rows}) == (11, {(10, 11), (11, 11)})


def test_quantization_goes_beside_the_graph() -> None:
    style = SURFACE.quantization
    assert style is not None
    assert (style.carrier, style.parameters, style.bias, style.activation) == (
        "ranges",
        "position_scale",
        "float",
        "asymmetric",
    )
    assert (style.weight_granularity("Conv"), style.weight_granularity("Conv", depthwise=True)) == ("channel", "tensor")
    assert not SET.implementing("porting.IntegerConv")


def test_numerics() -> None:
    assert backends.get("cambricon-mlu370").numerics.numerics().quantize_rounding == "half_away"
