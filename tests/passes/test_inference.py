from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.inference import attribute_key, constant_tensor, infer_outputs, signature_error, type_key


def value(*shape: int | str | None, dtype: ir.DataType | None = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name="x", type=None if dtype is None else ir.TensorType(dtype), shape=ir.Shape(shape))


def constant(array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array)
    return ir.Value(name="c", type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)


@pytest.mark.parametrize("opset", [12, 13, 16, 24])
@pytest.mark.parametrize("op_type", ["GreaterOrEqual", "LessOrEqual"])
def test_comparisons_without_inference_of_their_own_get_types(op_type, opset) -> None:
    node = ir.node(op_type, [value("n", 1), value(3)])
    assert infer_outputs(node, opset) == [(ir.DataType.BOOL, ("n", 3))]


def test_small_constants_take_part_and_results_do_not_leak_between_them() -> None:
    for target in ([6], [3, 2], [2, 3]):
        node = ir.node("Reshape", [value(2, 3), constant(np.array(target, np.int64))])
        assert infer_outputs(node, 13) == [(ir.DataType.FLOAT, tuple(target))]


def test_unknown_types_give_unknown_outputs() -> None:
    assert infer_outputs(ir.node("Relu", [value(2, dtype=None)]), 13) == [(None, None)]
    assert infer_outputs(ir.node("NoSuch", [value(2)]), 13) == [(None, None)]


def test_an_impossible_node_raises_nothing() -> None:
    assert infer_outputs(ir.node("MatMul", [value(2, 3), value(4, 5)]), 13) == [(None, None)]


def test_a_default_that_the_caller_may_override_is_no_constant() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 13]> g (float[1] x, float[1] c = {2.0}) => (float[1] y) { y = Mul(x, c) }'
    )
    node = model.graph.node(0)
    assert constant_tensor(node.inputs[1]) is None
    assert type_key(node.inputs[1]) == type_key(node.inputs[0])


def test_keys_see_small_contents_and_only_the_constness_of_large_ones() -> None:
    small = [type_key(constant(np.full(4, fill, np.float32))) for fill in (1, 2)]
    large = [type_key(constant(np.full(400, fill, np.float32))) for fill in (1, 2)]
    assert small[0] != small[1]
    assert large[0] == large[1]
    assert type_key(value(400)) != large[0]


def test_attribute_keys_ignore_order_and_refuse_subgraphs() -> None:
    first = ir.node("Conv", [value(1), value(1)], {"group": 1, "pads": [1, 1]})
    second = ir.node("Conv", [value(1), value(1)], {"pads": [1, 1], "group": 1})
    assert attribute_key(first) == attribute_key(second)
    graph = ir.Graph([], [], nodes=[], name="branch")
    assert attribute_key(ir.node("If", [value()], {"then_branch": graph, "else_branch": graph})) is None


@pytest.mark.parametrize(
    ("node", "opset", "problem"),
    [
        (lambda: ir.node("Relu", [value(2)]), 13, None),
        (lambda: ir.node("Relu", [value(2, dtype=ir.DataType.INT32)]), 13, "does not take int32"),
        (lambda: ir.node("Relu", [value(2, dtype=ir.DataType.INT32)]), 14, None),
        (lambda: ir.node("Mish", [value(2)]), 17, "does not exist"),
        (lambda: ir.node("Add", [value(2)]), 13, "takes 2 to 2 inputs, not 1"),
    ],
)
def test_signature(node, opset, problem) -> None:
    found = signature_error(node(), opset)
    assert found is None if problem is None else problem in str(found)
