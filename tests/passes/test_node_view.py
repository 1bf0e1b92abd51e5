"""What constraints see of a node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porting_passes.node_view import dtype_name, is_constant, looks_of, view


def test_operands_attributes_and_neighbours() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, "n", None]))
    first = ir.node("Relu", [x])
    second = ir.node("Conv", [first.outputs[0], None], {"pads": [1, 1], "alpha": 0.5, "mode": "a"}, domain="acme")
    seen = view(second, 18)
    assert seen.inputs[1] is None
    assert seen.inputs[0] is not None
    assert (seen.inputs[0].producer, seen.inputs[0].consumers) == ("Relu", ("acme.Conv",))
    assert seen.attributes == {"pads": [1, 1], "alpha": 0.5, "mode": "a"}
    of_first = view(first, 18).inputs[0]
    assert of_first is not None
    assert (of_first.dtype, of_first.shape, of_first.constant) == ("float32", (1, "n", None), False)


def test_only_what_is_looked_at_is_filled_in() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.INT8), shape=ir.Shape([4]))
    seen = view(ir.node("Relu", [x]), 18, looks_of({"dtype", "attr"})).inputs[0]
    assert seen is not None
    assert (seen.dtype, seen.shape, seen.consumers) == ("int8", None, ())
    assert looks_of({"rank", "producer", "constant", "opset"}) == {"shape", "neighbours", "constant"}


def test_tensors_graphs_and_references_count_by_kind() -> None:
    constant = ir.node("Constant", [], {"value": ir.tensor(np.zeros(3, np.float16))})
    assert view(constant, 18).attributes == {"value": "tensor(float16)"}
    assert is_constant(constant.outputs[0])
    branch = ir.node("If", [], {"then_branch": ir.Graph([], [], nodes=[])})
    assert view(branch, 18).attributes == {"then_branch": "graph"}
    inside = ir.Node("", "Relu", [], attributes=[ir.RefAttr("alpha", "a", ir.AttributeType.FLOAT)])
    assert view(inside, 18).attributes == {"alpha": "@a"}


def test_weights_are_constant_and_inputs_are_not() -> None:
    weight = ir.Value(name="w", const_value=ir.tensor([1.0], name="w"))
    assert is_constant(weight)
    assert not is_constant(ir.Value(name="x"))


def test_dtype_names() -> None:
    kinds = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN)
    assert [dtype_name(kind) for kind in kinds] == ["float32", "float64", "bfloat16", "float8e4m3fn"]
