"""`porting check`: all failures at once, with reasons, places and candidates, and the exit code that says which."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from porting import schemas
from porting.cli import check as module

ROOT = Path(__file__).parents[3]


def check(*arguments: object) -> Result:
    return CliRunner().invoke(module.command, [str(a) for a in arguments], standalone_mode=False)


def saved(tmp_path: Path, *nodes: onnx.NodeProto, shape: tuple[int | str, ...] = (2, 4), opset: int = 17) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def test_a_legal_model_is_exit_0() -> None:
    result = check(ROOT / "examples" / "cnn" / "model.onnx", "--backend", "ascend-910b")
    assert result.return_value == 0
    assert result.output.startswith("legal:")


def test_all_unsupported_operators_are_listed_with_reasons_places_and_candidates(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x4"], ["p", "indices"], kernel_shape=[2, 2], name="pool"),
        helper.make_node("STFT", ["s", "step", "", "length"], ["spectrum"], name="spectrum"),
    ]
    graph = helper.make_graph(
        [
            *nodes,
            helper.make_node("Cast", ["indices"], ["i"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["p", "i"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x4", TensorProto.FLOAT, [1, 1, 4, 4]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 64, 1]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("spectrum", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor("step", TensorProto.INT64, [], [16]),
            helper.make_tensor("length", TensorProto.INT64, [], [16]),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    result = check(path, "--backend", "ascend-910b", "--json")
    assert result.return_value == 3
    document = json.loads(result.output)
    schemas.validate("check", document)
    assert {f["operator"] for f in document["failures"]} == {"MaxPool", "STFT"}
    for failure in document["failures"]:
        assert failure["verdict"] == "illegal"
        assert failure["reasons"][0]["source"]
        assert failure["place"]


def test_an_unlisted_operator_is_exit_4_and_can_be_let_through(tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Sin", ["x"], ["y"]))
    result = check(model, "--backend", "cambricon-mlu370")
    assert result.return_value == 4
    assert "unknown: Sin" in result.output
    assert check(model, "--backend", "cambricon-mlu370", "--allow-unknown", "Sin").return_value == 0


def test_as_is_judges_what_a_rewrite_would_mend(tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Gelu", ["x"], ["y"]), opset=20)
    assert check(model, "--backend", "ascend-910b").return_value == 0
    result = check(model, "--backend", "ascend-910b", "--as-is")
    assert result.return_value == 3
    assert "Gelu" in result.output


def test_as_is_says_an_equal_reason_once_and_that_nothing_was_tried(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", [a], [b], name=f"to_{b}") for a, b in ("xh", "hi", "iy")]
    result = check(saved(tmp_path, *nodes, opset=18), "--backend", "cambricon-mlu370", "--as-is")
    assert result.return_value == 3
    assert result.output.count("rule   opset: 18") == 1
    assert "illegal: 3 nodes" in result.output
    assert all(f"Relu 'to_{name}' from" in result.output for name in "hiy")
    assert "rewrites were not tried (--as-is)" in result.output
    assert "no other form" not in result.output


def test_a_limit_over_a_bounded_dimension_is_decided_for_the_whole_interval(tmp_path: Path) -> None:
    """A quantized model for Ascend has fixed shapes: one value in the interval is legal, two are not."""
    arguments = (ROOT / "examples" / "cnn" / "model.onnx", "--backend", "ascend-910b", "--scheme", "w8a8-static")
    assert check(*arguments, "--dim", "batch=4").return_value == 0
    result = check(*arguments, "--dim", "batch=1..2")
    assert result.return_value == 3
    assert "static" in result.output


def test_the_place_is_the_users_module_and_line() -> None:
    result = check("examples.encoder.model:factory", "--backend", "cambricon-mlu370")
    assert result.return_value == 4
    assert "blocks.2.attention (examples/encoder/model.py:" in result.output


def test_a_conversion_that_is_impossible_names_every_node(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1, name="zero")]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    result = check(path, "--backend", "cambricon-mlu370")
    assert result.return_value == 3
    assert "Reshape 'zero'" in result.output
    assert "allowzero" in result.output


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["port", "--help"], ["verify", "--help"]])
def test_help_imports_neither_torch_nor_onnx(arguments: list[str]) -> None:
    code = (
        "import sys, porting.cli\n"
        f"try: porting.cli.main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "Usage: porting" in result.stdout
    assert result.stderr.strip() == "[]"
