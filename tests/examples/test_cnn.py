"""The committed digits network does what its README says, in stock onnxruntime."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "cnn"
ABSOLUTE_PATH = re.compile(rb"(?:/(?:home|root|tmp|work|usr|Users|opt|mnt|var)/|[A-Z]:\\\\)[\w./\\-]*")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(FOLDER / "model.onnx")


def test_accuracy_of_the_held_out_images(tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    with np.load(FOLDER / "test.npz") as arrays:
        np.savez(tmp_path / "Y.npz", logits=session.run(["logits"], dict(arrays))[0])
    command = [sys.executable, str(FOLDER / "accuracy.py"), str(tmp_path / "Y.npz")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # 448 of 450. The two best scores of an image differ by 0.01 at least: no rounding on another CPU changes the count.
    assert printed.strip().endswith("accuracy 0.9956 on 450 images")


def test_interface(model: onnx.ModelProto) -> None:
    (image,), (logits,) = model.graph.input, model.graph.output
    shapes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (image, logits)]
    assert (image.name, logits.name) == ("image", "logits")
    assert shapes == [["batch", 1, 8, 8], ["batch", 10]]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    with np.load(FOLDER / "calibration.npz") as arrays:
        assert arrays.files == ["image"]
        assert arrays["image"].shape == (128, 1, 8, 8)
        assert arrays["image"].dtype == np.float32


def test_graph_leaves_work_to_the_passes(model: onnx.ModelProto) -> None:
    types = [node.op_type for node in model.graph.node]
    assert types.count("Conv") == types.count("BatchNormalization") == 7
    assert {"Relu", "Clip", "HardSwish", "MaxPool", "Add", "ReduceMean", "Gemm"} <= set(types)


def test_provenance_is_inside_and_relative(model: onnx.ModelProto) -> None:
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    metadata = {entry.key: entry.value for entry in convolution.metadata_props}
    assert metadata["pkg.torch.onnx.name_scopes"] == "['', 'stem', 'stem.0', 'conv2d']"
    place = re.match(r'File "examples/cnn/model\.py", line (\d+), in forward', metadata["pkg.torch.onnx.stack_trace"])
    assert place is not None
    assert "self.stem(image)" in (FOLDER / "model.py").read_text().splitlines()[int(place[1]) - 1]


@pytest.mark.parametrize(
    "path", sorted(path for path in FOLDER.iterdir() if path.is_file()), ids=lambda path: path.name
)
def test_committed_file_is_small_and_names_no_machine(path: Path) -> None:
    assert path.stat().st_size < 3_000_000
    assert ABSOLUTE_PATH.findall(path.read_bytes()) == []
