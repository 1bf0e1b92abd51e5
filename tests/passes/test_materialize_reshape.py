"""Computed target shapes become constants where inference knows enough, and stay where it does not."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from porting_passes.eliminate_dead_code import EliminateDeadCode
from porting_passes.infer_shapes import InferShapes
from porting_passes.materialize_reshape import MaterializeReshape


def flattening(shape: list[int | str]) -> onnx.ModelProto:
    """x -> Reshape(x, [Shape(x)[0], -1]) as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"], allowzero=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], None])],
        [helper.make_tensor("rest", TensorProto.INT64, [1], [-1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_dynamic_batch_is_copied(rows: int) -> None:
    proto = flattening(["n", 4, 5])
    model = ir.from_proto(proto)
    InferShapes()(model)
    assert MaterializeReshape()(model).modified
    EliminateDeadCode()(model)
    assert [node.op_type for node in model.graph] == ["Reshape"]
    target = model.graph[0].inputs[1]
    assert target is not None
    assert target.const_value is not None
    assert target.const_value.numpy().tolist() == [0, -1]  # the second extent is not inferred through Concat
    x = np.random.default_rng(0).standard_normal((rows, 4, 5), dtype=np.float32)
    results = [
        onnxruntime.InferenceSession(p.SerializeToString()).run(None, {"x": x})[0] for p in (proto, ir.to_proto(model))
    ]
    np.testing.assert_array_equal(*results)


def test_two_unknown_extents_are_left() -> None:
    model = ir.from_proto(flattening(["n", "m", "k"]))
    InferShapes()(model)
    model.graph.outputs[0].shape = ir.Shape([None, None])
    assert not MaterializeReshape()(model).modified


def test_a_constant_target_is_left() -> None:
    proto = flattening([2, 4, 5])
    proto.graph.node[2].input[1] = "fixed"
    proto.graph.initializer.append(helper.make_tensor("fixed", TensorProto.INT64, [2], [2, -1]))
    assert not MaterializeReshape()(ir.from_proto(proto)).modified
