import json

import numpy as np
import onnx_ir as ir
import pytest

from porting import backends, schemas
from porting.errors import InvalidInputError
from porting.quantization import range_file
from porting.simulation.executable import apply_ranges
from porting.simulation.interpreter import Interpreter
from porting_passes.infer_shapes import InferShapes
from porting_passes.quantize_static import ActivationRange, QuantizeStatic

STYLE = backends.get("cambricon-mlu370").surface("magicmind").quantization
RANGES = {"x": ActivationRange(-1.1, 2.3), "f": ActivationRange(0.0, 1 / 3)}


def model() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4), "m": rng.standard_normal((4, 5))}
    tensors = [ir.tensor(a.astype(np.float32), name=n) for n, a in weights.items()]
    text = """<ir_version: 8, opset_import: ["" : 11]> agraph (float[2, 3, 3, 3] x) => (float y) {
        c = Conv(x, w, b) r = Relu(c) f = Flatten(r) y = MatMul(f, m) }"""
    built = ir.from_onnx_text(text, initializers=tensors)
    InferShapes()(built)
    return built


def written(tmp_path):
    quantized = model()
    result = QuantizeStatic(RANGES, STYLE)(quantized)
    path = tmp_path / "quantization.json"
    path.write_text(json.dumps(range_file.document(result.quantized, RANGES, STYLE)), encoding="utf-8")
    return path, quantized


def test_what_is_read_back_quantizes_to_the_same_bits(tmp_path):
    path, quantized = written(tmp_path)
    read = range_file.read(path)
    assert read.activations == RANGES
    assert read.listed == {"c", "y"}
    x = np.random.default_rng(1).standard_normal((2, 3, 3, 3)).astype(np.float32)
    again = model()
    assert len(apply_ranges(again, read, STYLE).quantized) == 2
    expected = Interpreter(quantized).run({"x": x})["y"]
    np.testing.assert_array_equal(Interpreter(again).run({"x": x})["y"].numpy(), expected.numpy())


def test_the_document_says_what_the_converter_needs(tmp_path):
    document = json.loads(written(tmp_path)[0].read_text())
    schemas.validate("quantization", document)
    convolution, product = document["nodes"]
    assert convolution["activation"] == {"name": "x", "min": -1.1, "max": 2.3, "algorithm": "asymmetric"}
    assert (convolution["weight"]["granularity"], len(convolution["weight"]["absmax"])) == ("per_axis", 4)
    assert (product["weight"]["granularity"], len(product["weight"]["absmax"])) == ("per_tensor", 1)


def test_nodes_that_are_not_listed_stay_in_float(tmp_path):
    path, _ = written(tmp_path)
    document = json.loads(path.read_text())
    del document["nodes"][0]
    path.write_text(json.dumps(document))
    again = model()
    result = apply_ranges(again, range_file.read(path), STYLE)
    assert [node.output for node in result.quantized] == ["y"]
    assert [(kept.output, kept.reason) for kept in result.kept] == [("c", "not listed in the range file")]


def without(document, *path):
    *inner, last = path
    for key in inner:
        document = document[key]
    del document[last]


def with_(document, value, *path):
    *inner, last = path
    for key in inner:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: without(d, "nodes"),
        lambda d: without(d, "nodes", 0, "activation", "min"),
        lambda d: with_(d, 9, "schema_version"),
        lambda d: with_(d, 5.0, "nodes", 0, "activation", "min"),
        lambda d: with_(d, "wide", "nodes", 0, "activation", "max"),
        lambda d: with_(d, [-1.0], "nodes", 0, "weight", "absmax"),
        lambda d: with_(d, 3.0, "nodes", 0, "weight", "absmax"),
    ],
)
def test_a_damaged_file_is_refused_with_its_place(tmp_path, damage):
    path, _ = written(tmp_path)
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidInputError, match=r"quantization\.json is damaged"):
        range_file.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    path = tmp_path / "quantization.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="is damaged"):
        range_file.read(path)
    with pytest.raises(InvalidInputError, match="is damaged"):
        range_file.read(tmp_path / "absent.json")
