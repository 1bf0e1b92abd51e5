"""What an ONNX file must be, and what is said about one that is not."""

import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from porting import frontends, stock_runtime
from porting.errors import InvalidModelError, UsageError


def model(
    nodes: list[onnx.NodeProto] | None = None, *, opset: int = 17, weight: np.ndarray | None = None
) -> onnx.ModelProto:
    if nodes is None:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3), dtype=np.float32) if weight is None else weight
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(tmp_path: Path, proto: onnx.ModelProto, **how: object) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, **how)
    return path


def external(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    proto = model(weight=rng.standard_normal((4, 3), dtype=np.float32))
    return saved(
        tmp_path, proto, save_as_external_data=True, all_tensors_to_one_file=True, location="data.bin", size_threshold=0
    )


def test_a_good_file_gives_model_digest_and_reference(tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    source = frontends.load(str(path))
    x = np.random.default_rng(1).standard_normal((2, 4), dtype=np.float32)
    weight = numpy_helper.to_array(model().graph.initializer[0])
    np.testing.assert_allclose(source.reference({"x": x})["y"], np.maximum(x @ weight, 0), rtol=1e-5, atol=1e-6)
    assert source.kind == "onnx"
    assert source.digest == frontends.load(str(path)).digest


def test_a_model_without_outputs_is_refused(tmp_path: Path) -> None:
    proto = model()
    del proto.graph.output[:]
    with pytest.raises(InvalidModelError, match="has no outputs"):
        frontends.load(str(saved(tmp_path, proto)))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a folder"])
def test_external_data_that_is_no_regular_file_is_called_so(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = external(tmp_path)
    (tmp_path / "data.bin").unlink()
    make(tmp_path / "data.bin")
    with pytest.raises(InvalidModelError, match="not a regular file"):
        frontends.load(str(path))


def test_an_empty_source_is_called_empty() -> None:
    with pytest.raises(UsageError, match="SOURCE is empty"):
        frontends.load("")


def test_external_data_is_read_and_is_part_of_the_digest(tmp_path: Path) -> None:
    path = external(tmp_path)
    before = frontends.load(str(path))
    expected = numpy_helper.to_array(model().graph.initializer[0])
    np.testing.assert_array_equal(before.model.graph.initializers["w"].const_value.numpy(), expected)
    data = bytearray((tmp_path / "data.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "data.bin").write_bytes(data)
    assert frontends.load(str(path)).digest != before.digest


@pytest.mark.parametrize("keep", [0, 1, 20, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path, model())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 or keep == 0 else keep * len(data))])
    with pytest.raises(InvalidModelError, match=r"not a whole ONNX file|contradicts") as error:
        frontends.load(str(path))
    assert error.value.exit_code == 2


def test_bytes_that_are_no_protobuf_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(InvalidModelError, match="not a whole ONNX file"):
        frontends.load(str(path))


@pytest.mark.parametrize("location", ["../data.bin", "/etc/passwd", "a/../../data.bin", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    os.replace(folder / "data.bin", tmp_path / "data.bin")
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InvalidModelError, match="outside the model's folder") as error:
        frontends.load(str(path))
    assert error.value.exit_code == 2


def test_external_data_behind_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = external(folder)
    os.replace(folder / "data.bin", tmp_path / "data.bin")
    (folder / "data.bin").symlink_to(tmp_path / "data.bin")
    with pytest.raises(InvalidModelError, match="outside the model's folder"):
        frontends.load(str(path))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "data.bin").unlink()
    with pytest.raises(InvalidModelError, match=r"missing[\s\S]*data\.bin"):
        frontends.load(str(path))


def test_short_external_data_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    os.truncate(tmp_path / "data.bin", 20)
    with pytest.raises(InvalidModelError, match=r"shorter than its tensor[\s\S]*48 bytes[\s\S]*'w'"):
        frontends.load(str(path))


def test_a_cycle_is_refused_with_its_nodes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="innocent"),
    ]
    with pytest.raises(InvalidModelError, match="has a cycle") as error:
        frontends.load(str(saved(tmp_path, model(nodes))))
    assert "first, second" in str(error.value)
    assert "innocent" not in str(error.value)


def test_a_type_contradiction_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("MatMul", ["i", "w"], ["y"], name="mixed"),
    ]
    with pytest.raises(InvalidModelError, match="contradicts itself"):
        frontends.load(str(saved(tmp_path, model(nodes))))


def test_a_shape_contradiction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="contradicts itself"):
        frontends.load(str(saved(tmp_path, model(weight=np.ones((5, 3), np.float32)))))


def test_nan_in_weights_is_refused_with_name_and_count(tmp_path: Path) -> None:
    weight = np.ones((4, 3), np.float32)
    weight[1, 2] = weight[0, 0] = np.nan
    with pytest.raises(InvalidModelError, match=r"NaN in weights[\s\S]*w \(2 of 12\)") as error:
        frontends.load(str(saved(tmp_path, model(weight=weight))))
    assert error.value.exit_code == 2


def test_infinite_weights_are_masks_and_stay(tmp_path: Path) -> None:
    weight = np.full((4, 3), -np.inf, np.float32)
    assert frontends.load(str(saved(tmp_path, model(weight=weight)))).model.graph.initializers["w"] is not None


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"opset 10[\s\S]*required 11 to"):
        frontends.load(str(saved(tmp_path, model(opset=10))))


def test_an_opset_newer_than_onnx_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="opset 999"):
        frontends.load(str(saved(tmp_path, model(opset=999))))


@pytest.mark.parametrize(
    "text", ["missing.onnx", "no/such/file", "model.tflite", "."], ids=["file", "path", "ending", "folder"]
)
def test_what_is_no_source_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.tflite").touch()
    with pytest.raises(UsageError, match=r"required an \.onnx file"):
        frontends.load(text)


def test_a_source_that_onnxruntime_refuses_has_a_reference_that_says_so(tmp_path: Path) -> None:
    """onnxruntime's CPU provider has no bfloat16 Add."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [2])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [2])],
    )
    path = saved(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    source = frontends.load(str(path))
    assert "not independent" in source.reference.name
    x = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    assert source.reference({"x": x})["y"].tolist() == [3.0, -4.0]


def test_one_session_serves_all_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = stock_runtime.open_session
    monkeypatch.setattr(stock_runtime, "open_session", lambda *a: opened.append(a) or real(*a))
    source = frontends.load(str(saved(tmp_path, model())))
    for _ in range(3):
        source.reference({"x": np.zeros((1, 4), np.float32)})
    assert len(opened) == 1


def branch(nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, output, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def conditional(then: list[onnx.NodeProto]) -> onnx.ModelProto:
    """If(c) then the last output of ``then``, else Relu(x)."""
    other = branch([helper.make_node("Relu", ["x"], ["e"])], "e")
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch(then, then[-1].output[0]), else_branch=other)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_cycle_in_a_branch_is_refused_with_its_nodes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    with pytest.raises(InvalidModelError, match=r"has a cycle[\s\S]*first, second"):
        frontends.load(str(saved(tmp_path, conditional(nodes))))


def test_a_cycle_through_what_a_branch_captures_is_refused(tmp_path: Path) -> None:
    proto = conditional([helper.make_node("Relu", ["late"], ["t"])])
    proto.graph.node.append(helper.make_node("Neg", ["y"], ["late"], name="behind"))
    with pytest.raises(InvalidModelError, match=r"has a cycle[\s\S]*behind"):
        frontends.load(str(saved(tmp_path, proto)))


def test_a_cycle_in_a_function_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["u", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    proto = model([helper.make_node("F", ["x"], ["y"], domain="local")])
    proto.functions.append(helper.make_function("local", "F", ["u"], ["b"], nodes, [helper.make_opsetid("", 17)]))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(InvalidModelError, match="has a cycle"):
        frontends.load(str(saved(tmp_path, proto)))


NAN = numpy_helper.from_array(np.array([1, np.nan, 2], np.float32))


def test_nan_in_constants_of_nodes_is_refused_wherever_they_stand(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["k"], value=NAN)
    add = helper.make_node("Add", ["x", "k"], ["t"])
    with pytest.raises(InvalidModelError, match=r"NaN in weights[\s\S]*k \(1 of 3\)"):
        frontends.load(str(saved(tmp_path, conditional([constant, add]))))
    scalar = helper.make_node("Constant", [], ["k"], value_float=float("nan"))
    with pytest.raises(InvalidModelError, match=r"NaN in weights[\s\S]*k \(1 of 1\)"):
        frontends.load(str(saved(tmp_path, conditional([scalar, add]))))
    proto = conditional([helper.make_node("F", ["x"], ["t"], domain="local")])
    body = [constant, helper.make_node("Add", ["u", "k"], ["v"])]
    proto.functions.append(helper.make_function("local", "F", ["u"], ["v"], body, [helper.make_opsetid("", 17)]))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(InvalidModelError, match=r"NaN in weights[\s\S]*k \(1 of 3\)"):
        frontends.load(str(saved(tmp_path, proto)))


def test_the_default_domain_may_be_spelled_out(tmp_path: Path) -> None:
    proto = conditional([helper.make_node("Neg", ["x"], ["t"], domain="ai.onnx")])
    proto.opset_import[0].domain = "ai.onnx"
    read = frontends.load(str(saved(tmp_path, proto))).model
    assert read.opset_imports == {"": 17}
    assert {node.domain for node in read.graph.all_nodes()} == {""}


def test_two_versions_of_the_default_domain_are_refused(tmp_path: Path) -> None:
    proto = model()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    with pytest.raises(InvalidModelError, match=r"two opsets[\s\S]*17 and 13"):
        frontends.load(str(saved(tmp_path, proto)))


def test_a_model_of_custom_nodes_alone_gets_an_opset(tmp_path: Path) -> None:
    proto = model([helper.make_node("F", ["x", "w"], ["y"], domain="acme")])
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    assert frontends.load(str(saved(tmp_path, proto))).model.opset_imports == {"acme": 1, "": 11}
    body = [helper.make_node("MatMul", ["u", "v"], ["o"])]
    proto.functions.append(helper.make_function("acme", "F", ["u", "v"], ["o"], body, [helper.make_opsetid("", 18)]))
    assert frontends.load(str(saved(tmp_path, proto))).model.opset_imports == {"acme": 1, "": 18}


def test_stale_annotations_give_way_to_what_onnx_infers(tmp_path: Path) -> None:
    """A shape that an exporter left from its sample must not become a constant behind Shape."""
    proto = model()
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [4, 3]))
    read = frontends.load(str(saved(tmp_path, proto))).model
    assert [value.shape for value in read.graph.node(0).outputs] == [["n", 3]]


def test_annotations_that_onnx_cannot_infer_stay(tmp_path: Path) -> None:
    proto = model([helper.make_node("F", ["x", "w"], ["h"], domain="acme"), helper.make_node("Relu", ["h"], ["y"])])
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 3]))
    read = frontends.load(str(saved(tmp_path, proto))).model
    (value,) = read.graph.node(0).outputs
    assert value.shape == ["n", 3]
    assert value.dtype == TensorProto.FLOAT


def test_a_location_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"data.bin", b"data\xff\xfein"))
    with pytest.raises(InvalidModelError) as error:
        frontends.load(str(path))
    assert error.value.exit_code == 2
