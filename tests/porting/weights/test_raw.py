"""Weights of a written port: large ones become views, and are the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from porting.simulation.interpreter import Interpreter
from porting.weights import raw
from porting.weights.view import WeightView


@pytest.fixture
def written(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((512, 600), dtype=np.float32),
        "small": rng.standard_normal((600,), dtype=np.float32),
        "codes": rng.integers(-8, 8, (1100, 1000), dtype=np.int8),
    }
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
        onnx.helper.make_node("Add", ["h", "small"], ["y"]),
        onnx.helper.make_node("Identity", ["codes"], ["c"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, [2, 512])], [value("y", 1, [2, 600]), value("c", 3, [1100, 1000])], initializers
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return tmp_path / "m.onnx"


def test_only_large_weights_become_views(written: Path) -> None:
    model = ir.load(written)
    raw.leave_in_file(model)
    kinds = {name: type(value.const_value) for name, value in model.graph.initializers.items()}
    assert kinds == {"w": WeightView, "small": ir.ExternalTensor, "codes": WeightView}


def test_they_give_the_same_numbers_within_any_memory(written: Path) -> None:
    x = np.random.default_rng(1).standard_normal((2, 512), dtype=np.float32)
    expected = Interpreter(ir.load(written)).run({"x": x})["y"]
    model = ir.load(written)
    raw.leave_in_file(model)
    for memory in (None, 0):
        np.testing.assert_array_equal(Interpreter(model, memory=memory).run({"x": x})["y"], expected)
