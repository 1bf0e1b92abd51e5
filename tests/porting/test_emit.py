"""Models to files: each content once, and a checkpoint's weights in blocks."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from porting import embedded_weights
from porting.emit import WEIGHTS, WeightFile, write_model
from porting.errors import UsageError
from porting.weights.store import WeightStore
from porting.weights.view import WeightView

ROOT = Path(__file__).resolve().parents[2]


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


def product_of(*weights: ir.TensorProtocol) -> ir.Model:
    """The sum of one input's products with all weights."""
    x, small = ir.val("x", ir.DataType.FLOAT, [2, 64]), ir.tensor(np.array([1.0, 2.0], np.float32), name="s")
    values = [
        ir.Value(name=f"w{i}", type=ir.TensorType(weight.dtype), shape=weight.shape, const_value=weight)
        for i, weight in enumerate(weights)
    ]
    spare = ir.Value(name="s", type=ir.TensorType(small.dtype), shape=small.shape, const_value=small)
    nodes = [ir.node("MatMul", [x, value]) for value in values]
    nodes.append(ir.node("Sum", [node.outputs[0] for node in nodes]))
    for index, node in enumerate(nodes):
        node.outputs[0].name, node.outputs[0].shape = f"y{index}", ir.Shape([2, 32])
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    outputs, initializers = nodes[-1].outputs, [values[0], spare, *values[1:]]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=initializers, opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


def test_weights_inside_the_model_are_what_onnx_would_have_written(
    tmp_path: Path, stored: dict[str, WeightView]
) -> None:
    views = [stored["w"], stored["v"]]
    model = product_of(*views)
    write_model(model, tmp_path / "streamed.onnx", None)
    assert model.graph.initializers["w0"].const_value is views[0]
    write_model(product_of(*(ir.tensor(view.numpy()) for view in views)), tmp_path / "plain.onnx", None)
    streamed, expected = onnx.load(tmp_path / "streamed.onnx"), onnx.load(tmp_path / "plain.onnx")
    assert streamed == expected
    onnx.checker.check_model(streamed, full_check=True)
    assert (tmp_path / "streamed.onnx").stat().st_size == (tmp_path / "plain.onnx").stat().st_size


def test_weights_that_protobuf_could_not_read_back_are_refused_before_anything_is_written(
    tmp_path: Path, stored: dict[str, WeightView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_weights, "LIMIT", stored["w"].nbytes)
    model = product_of(stored["w"])
    with pytest.raises(UsageError, match="do not fit inside") as caught:
        write_model(model, tmp_path / "model.onnx", None)
    assert "weights.bin" in str(caught.value)
    assert not (tmp_path / "model.onnx").exists()
    assert model.graph.initializers["w0"].const_value is stored["w"]


PEAK = """
import sys
from pathlib import Path
import onnx_ir as ir, torch
from porting.emit import WeightFile, write_model
from porting.weights.store import WeightStore
from porting.weights.view import WeightView

def status(field):
    return int(Path("/proc/self/status").read_text().partition(field + ":")[2].split()[0]) * 1024

source, out, place, count = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
store = WeightStore(source)
view = WeightView.stacked([WeightView.of(store, f"e{i}.weight", torch.float32) for i in range(count)])
x = ir.val("x", ir.DataType.FLOAT, [count, 2, 4096])
w = ir.Value(name="w", type=ir.TensorType(view.dtype), shape=view.shape, const_value=view)
node = ir.node("MatMul", [x, w])
node.outputs[0].name = "y"
graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20}, name="g")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = status("VmRSS")
weights = None if place == "embed" else WeightFile(out)
write_model(ir.Model(graph, ir_version=10), out / "model.onnx", weights)
print(status("VmHWM") - before, view.nbytes, sum(file.stat().st_size for file in out.iterdir()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("place", ["beside", "embed"])
def test_a_stack_of_experts_is_never_whole_in_memory(tmp_path: Path, place: str) -> None:
    """1.5 GiB of float32 out of 24 experts in FP8; the bar is 1 GiB and a block of rows; it keeps half a GiB."""
    spec = importlib.util.spec_from_file_location("checkpoints", ROOT / "benchmarks" / "checkpoints.py")
    assert spec is not None
    assert spec.loader is not None
    checkpoints = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checkpoints)
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    experts = [(f"e{i}.weight", "F8_E4M3", (4096, 4096)) for i in range(24)]
    scales = [(f"e{i}.weight_scale_inv", "F32", (32, 32)) for i in range(24)]
    checkpoints.write(source, [*experts, *scales], checkpoints.CONFIG, shards=1)
    command = [sys.executable, "-c", PEAK, str(source), str(out), place, "24"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    peak, weight, written = map(int, done.stdout.split())
    assert written > weight == 3 << 29
    assert peak < 1 << 29
