"""Models to files: each content once, and a checkpoint's weights in blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from porting.emit import WEIGHTS, WeightFile, write_model
from porting.weights import WeightStore, WeightView


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, WeightView]:
    tensor = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    (tmp_path / "source").mkdir()
    save_file({"w": tensor, "same": tensor.clone(), "v": tensor + 1}, tmp_path / "source" / "model.safetensors")
    store = WeightStore(tmp_path / "source")
    return {name: WeightView.of(store, name, torch.float32) for name in ("w", "same", "v")}


def test_a_content_is_written_once_wherever_it_comes_from(tmp_path: Path, stored: dict[str, WeightView]) -> None:
    weights = WeightFile(tmp_path)
    in_memory = ir.tensor(stored["w"].numpy())
    places = [weights.add(tensor) for tensor in (stored["w"], in_memory, stored["v"], stored["same"])]
    weights.close()
    assert [place.offset for place in places] == [0, 0, 64 * 32 * 4, 0]
    assert (tmp_path / WEIGHTS).read_bytes() == stored["w"].tobytes() + stored["v"].tobytes()


def test_places_are_aligned_and_what_was_no_news_leaves_no_trace(tmp_path: Path) -> None:
    weights = WeightFile(tmp_path)
    small, large = ir.tensor(np.arange(3, dtype=np.int8)), ir.tensor(np.arange(100, dtype=np.int8))
    places = [weights.add(tensor) for tensor in (small, large, small, large)]
    weights.close()
    assert [place.offset for place in places] == [0, 64, 0, 64]
    assert (tmp_path / WEIGHTS).read_bytes() == bytes([0, 1, 2]) + bytes(61) + bytes(range(100))


def test_weights_that_are_left_out_are_not_read(tmp_path: Path, stored: dict[str, WeightView]) -> None:
    store = stored["w"].raw[0].stored.store
    before = store.data_bytes_read
    weights = WeightFile(tmp_path, stored=False)
    assert [weights.add(stored[name]).offset for name in ("w", "v", "w")] == [0, 64 * 32 * 4, 0]
    weights.close()
    assert store.data_bytes_read == before
    assert not (tmp_path / WEIGHTS).exists()


def test_a_model_of_stored_weights_is_read_back_by_onnx(tmp_path: Path, stored: dict[str, WeightView]) -> None:
    x = ir.val("x", ir.DataType.FLOAT, [2, 64])
    view = stored["w"]
    w = ir.Value(name="w", type=ir.TensorType(view.dtype), shape=view.shape, const_value=view)
    node = ir.node("MatMul", [x, w])
    node.outputs[0].name = "y"
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20}), ir_version=10)
    weights = WeightFile(tmp_path)
    write_model(model, tmp_path / "model.onnx", weights)
    weights.close()
    assert w.const_value is view, "the model itself keeps its weights where they were"
    (tensor,) = onnx.load(tmp_path / "model.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), view.numpy())


@pytest.mark.parametrize("place", ["beside", "embed"])
def test_a_source_with_external_data_keeps_no_reference_to_it(tmp_path: Path, place: str) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    small = onnx.numpy_helper.from_array(np.array([1, 2], np.float32), "w")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [small])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "source").mkdir()
    onnx.save(proto, tmp_path / "source" / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (tmp_path / "out").mkdir()
    weights = None if place == "embed" else WeightFile(tmp_path / "out")
    write_model(ir.load(tmp_path / "source" / "m.onnx"), tmp_path / "out" / "model.onnx", weights)
    (tensor,) = onnx.load(tmp_path / "out" / "model.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), [1, 2])
