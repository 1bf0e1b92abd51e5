"""`porting port` from the outside: exit codes, what OUT holds, and that it is whole or absent."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from porting import schemas

ROOT = Path(__file__).parents[3]
CNN = ROOT / "examples" / "cnn"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "passes"), str(ROOT / "kernels")]),
}


def porting(*arguments: object, **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "porting", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False, **how)  # type: ignore[call-overload, no-any-return]


def few(tmp_path: Path, name: str, count: int) -> Path:
    path = tmp_path / f"{name}-{count}.npz"
    with np.load(CNN / f"{name}.npz") as data:
        np.savez(path, **{key: data[key][:count] for key in data.files})
    return path


def quantized(tmp_path: Path, out: Path, backend: str, *more: object) -> subprocess.CompletedProcess[str]:
    return porting(
        "port", CNN / "model.onnx", "--backend", backend, "--scheme", "w8a8-static", "--dim", "batch=1",
        "--calibrate", few(tmp_path, "calibration", 16), "--inputs", few(tmp_path, "test", 8), "-o", out, *more,
    )  # fmt: skip


def saved(tmp_path: Path, *nodes: onnx.NodeProto, shape: tuple[int | str, ...] = (1, 4), opset: int = 17) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    domains = {n.domain for n in nodes} - {""}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The digits network on both chips, eight test images."""
    folder = tmp_path_factory.mktemp("ports")
    made = {}
    for backend in ("ascend-910b", "cambricon-mlu370"):
        made[backend] = folder / backend
        result = quantized(folder, made[backend], backend)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("PASS")
    return made


@pytest.mark.parametrize("backend", ["ascend-910b", "cambricon-mlu370"])
def test_out_holds_what_the_contract_says(ports: dict[str, Path], backend: str) -> None:
    out = ports[backend]
    expected = {
        "model.onnx",
        "weights.bin",
        "twin.onnx",
        "port.json",
        "provenance.jsonl",
        "evidence",
        "parity.json",
        "report.html",
    }
    if backend == "cambricon-mlu370":
        expected.add("quantization.json")
    assert set(os.listdir(out)) == expected
    schemas.validate("port", json.loads((out / "port.json").read_text()))
    schemas.validate("parity", json.loads((out / "parity.json").read_text()))
    schemas.validate("evidence", json.loads((out / "evidence" / "reference.json").read_text()))
    for line in (out / "provenance.jsonl").read_text().splitlines():
        schemas.validate("provenance", json.loads(line))
    report = (out / "report.html").read_text()
    assert "http://" not in report
    assert "https://" not in report
    assert "separable.0" in report


@pytest.mark.parametrize("backend", ["ascend-910b", "cambricon-mlu370"])
def test_no_file_tells_where_it_was_made(ports: dict[str, Path], backend: str) -> None:
    for path in ports[backend].rglob("*"):
        if path.is_file() and path.name not in ("port.json", "report.html"):  # these two name the source as given
            assert os.fsencode(ROOT) not in path.read_bytes(), path


def test_the_ascend_model_holds_vendor_operators_and_no_bodies(ports: dict[str, Path]) -> None:
    model = onnx.load(ports["ascend-910b"] / "model.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("AscendQuant") == operators.count("AscendDequant") == 8
    assert not {"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger"} & set(operators)
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    weights = {i.name: i.data_type for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert weights[node.input[1]] == TensorProto.INT8


def test_the_cambricon_model_stays_float_beside_its_ranges(ports: dict[str, Path]) -> None:
    out = ports["cambricon-mlu370"]
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [i.version for i in model.opset_import] == [11]
    assert all(i.data_type in (TensorProto.FLOAT, TensorProto.INT64) for i in model.graph.initializer)
    ranges = json.loads((out / "quantization.json").read_text())
    outputs = {name for node in model.graph.node for name in node.output}
    assert {node["output"] for node in ranges["nodes"]} <= outputs
    assert len(ranges["nodes"]) == 8
    depthwise = [n for n in ranges["nodes"] if n["weight"]["granularity"] == "per_tensor"]
    assert len(depthwise) == 3  # two depthwise convolutions and the fully connected layer


@pytest.mark.parametrize("backend", ["ascend-910b", "cambricon-mlu370"])
def test_every_emitted_operator_is_one_that_the_facts_name(ports: dict[str, Path], backend: str) -> None:
    """A reader of its own: protobuf and the facts file, none of our legality code."""
    facts = ROOT.parent / "shared" / "facts" / "ops" / f"{backend}.json"
    if not facts.exists():
        pytest.skip("the facts are not beside this checkout")
    rows = json.loads(facts.read_text())["ops"]
    named = {str(row.get("onnx") or "").split(" ")[0].split("(")[0] for row in rows if row["kind"] == "onnx"}
    named |= {str(row["parser_key"]).rpartition("::")[2] for row in rows if row.get("parser_key")}
    model = onnx.load(ports[backend] / "model.onnx")
    assert {node.op_type for node in model.graph.node} - named - {"MatMul"} == set()


@pytest.mark.parametrize("backend", ["ascend-910b", "cambricon-mlu370"])
def test_the_simulation_equals_stock_onnxruntime_running_the_twin(
    ports: dict[str, Path], backend: str, tmp_path: Path
) -> None:
    data = few(tmp_path, "test", 8)
    result = porting(
        "simulate", ports[backend], "--inputs", data, "--outputs", tmp_path / "y.npz", "--numerics", "exact"
    )
    assert result.returncode == 0, result.stderr
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ports[backend] / "twin.onnx", options)
    with np.load(data) as x:
        expected = np.concatenate([session.run(["logits"], {"image": x["image"][i : i + 1]})[0] for i in range(8)])
    with np.load(tmp_path / "y.npz") as y:
        error = np.linalg.norm(y["logits"] - expected) / np.linalg.norm(expected)
    assert error <= 1e-5  # the fidelity limit of float32


def test_files_are_the_same_for_one_and_two_threads(ports: dict[str, Path], tmp_path: Path) -> None:
    for threads in (1, 2):
        result = quantized(tmp_path, tmp_path / str(threads), "ascend-910b", "--threads", threads)
        assert result.returncode == 0, result.stderr
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "2" / path.relative_to(tmp_path / "1")).read_bytes(), path


def test_an_existing_out_is_refused_and_force_replaces_it(ports: dict[str, Path], tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    out = tmp_path / "out"
    assert porting("port", model, "--backend", "reference", "-o", out).returncode == 0
    refused = porting("port", model, "--backend", "reference", "-o", out)
    assert refused.returncode == 2
    assert "exists" in refused.stderr
    assert porting("port", model, "--backend", "reference", "-o", out, "--force").returncode == 0


def test_two_runs_on_one_out_leave_one_whole_port(tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    command = [
        sys.executable,
        "-m",
        "porting",
        "port",
        str(model),
        "--backend",
        "reference",
        "-o",
        str(tmp_path / "out"),
    ]
    runs = [subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2]
    assert any("another run is writing" in e or "exists" in e for e in errors)
    assert (tmp_path / "out" / "port.json").exists()


@pytest.mark.parametrize("moment", [0.3, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_at_any_moment_leaves_no_part(tmp_path: Path, moment: float, number: signal.Signals) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "porting", "port", str(CNN / "model.onnx"), "--backend", "ascend-910b",
        "--scheme", "w8a8-static", "--dim", "batch=1", "--calibrate", str(CNN / "calibration.npz"),
        "--inputs", str(CNN / "test.npz"), "-o", str(out),
    ]  # fmt: skip

    def heed() -> None:
        signal.signal(number, signal.SIG_DFL)  # A runner in the background may have it ignored.

    run = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=heed)
    time.sleep(moment)
    run.send_signal(number)
    run.communicate(timeout=60)
    if run.returncode == 0:  # It was quicker than the moment: then OUT is whole.
        assert (out / "port.json").exists()
    else:
        assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_no_part(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    calibration, test = few(tmp_path, "calibration", 4), few(tmp_path, "test", 4)
    place = tmp_path / "place"
    result = porting(
        "port", CNN / "model.onnx", "--backend", "ascend-910b", "--scheme", "w8a8-static", "--dim", "batch=1",
        "--calibrate", calibration, "--inputs", test, "-o", place / "out", preexec_fn=limit,
    )  # fmt: skip
    assert result.returncode == 2
    assert "no room to write" in result.stderr
    assert os.listdir(place) == []


NAMES = {
    "backend": (["--backend", "ascend-910c"], ["no backend 'ascend-910c'", "did you mean 'ascend-910b'"]),
    "surface": (["--backend", "ascend-910b", "--surface", "atc"], ["no surface 'atc'", "did you mean 'atc-onnx'"]),
    "scheme": (["--backend", "ascend-910b", "--scheme", "w8a8-statc"], ["no scheme 'w8a8-statc'", "w8a8-static"]),
    "dtype": (["--backend", "cambricon-mlu370", "--dtype", "bfloat16"], ["bfloat16", "float16, float32"]),
    "calibration": (["--backend", "ascend-910b", "--scheme", "w8a8-static"], ["--calibrate"]),
    "shape": (["--backend", "reference", "--shape", "z=1x4"], ["no input 'z'", "x"]),
    "rank": (["--backend", "reference", "--shape", "x=1"], ["wrong rank"]),
    "dim": (["--backend", "reference", "--dim", "batch=1..8"], ["no dimension 'batch'"]),
}


@pytest.mark.parametrize("arguments, texts", NAMES.values(), ids=NAMES)
def test_a_wrong_word_is_exit_2_with_what_is_known(tmp_path: Path, arguments: list[str], texts: list[str]) -> None:
    model = saved(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    result = porting("port", model, *arguments, "-o", tmp_path / "out")
    assert result.returncode == 2
    for text in texts:
        assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


INPUTS = {
    "name": ({"z": np.zeros((1, 4), np.float32)}, "not named as the model's inputs"),
    "shape": ({"x": np.zeros((1, 5), np.float32)}, "another size than its input at axis 1"),
    "rank": ({"x": np.zeros((1, 4, 1), np.float32)}, "another rank"),
    "type": ({"x": np.zeros((1, 4), np.float64)}, "another dtype"),
    "nan": ({"x": np.full((1, 4), np.nan, np.float32)}, "NaN or infinity"),
}


@pytest.mark.parametrize("arrays, text", INPUTS.values(), ids=INPUTS)
def test_inputs_that_do_not_fit_are_exit_2(tmp_path: Path, arrays: dict[str, np.ndarray], text: str) -> None:
    model = saved(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    np.savez(tmp_path / "x.npz", **arrays)
    result = porting("port", model, "--backend", "reference", "--inputs", tmp_path / "x.npz", "-o", tmp_path / "out")
    assert result.returncode == 2
    assert text in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_operator_that_nobody_knows_is_illegal_where_the_table_is_complete(tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Frobnicate", ["x"], ["y"], domain="acme"))
    result = porting("port", model, "--backend", "ascend-910b", "-o", tmp_path / "out")
    assert result.returncode == 3
    assert "acme.Frobnicate" in result.stderr


def test_an_operator_that_nobody_knows_is_unknown_where_the_table_is_not(tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Frobnicate", ["x"], ["y"], domain="acme"))
    result = porting("port", model, "--backend", "cambricon-mlu370", "-o", tmp_path / "out")
    assert result.returncode == 4
    assert "--allow-unknown Frobnicate" in result.stderr


def test_an_operator_without_a_meaning_cannot_be_simulated(tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Frobnicate", ["x"], ["y"], domain="acme"))
    result = porting("port", model, "--backend", "reference", "-o", tmp_path / "out")
    assert result.returncode == 2
    assert "Frobnicate" in result.stderr
    assert not (tmp_path / "out").exists()


def test_synthetic_inputs_never_give_pass(tmp_path: Path) -> None:
    model = saved(tmp_path, helper.make_node("Relu", ["x"], ["y"]))
    result = porting("port", model, "--backend", "reference", "-o", tmp_path / "out")
    assert result.returncode == 0
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["verdict"] == "not_measured"
    assert porting("verify", tmp_path / "out", "--strict").returncode == 1


def test_a_port_without_weights_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = porting("port", CNN / "model.onnx", "--backend", "ascend-910b", "--weights", "none", "-o", out)
    assert result.returncode == 0, result.stderr
    assert not (out / "weights.bin").exists()
    refused = porting("simulate", out, "--inputs", CNN / "test.npz", "--outputs", tmp_path / "y.npz")
    assert refused.returncode == 2
    assert "holds no weights" in refused.stderr


def test_embedded_weights_leave_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = porting("port", CNN / "model.onnx", "--backend", "cambricon-mlu370", "--weights", "embed",
                     "--inputs", few(tmp_path, "test", 4), "-o", out)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not (out / "weights.bin").exists()
    assert onnx.load(out / "model.onnx").ByteSize() > 100_000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_floating_type_is_apart_from_the_scheme(tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "out"
    result = porting("port", CNN / "model.onnx", "--backend", "ascend-910b", "--dtype", dtype,
                     "--inputs", few(tmp_path, "test", 8), "-o", out)  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    model = onnx.load(out / "model.onnx")
    wanted = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.BFLOAT16
    weights = {i.name: i.data_type for i in model.graph.initializer}
    # ONNX's Conv takes bfloat16 from opset 22 on only: here it computes in float32 between casts.
    operators = ("Conv", "Gemm") if dtype == "float16" else ("Gemm",)
    assert {weights[node.input[1]] for node in model.graph.node if node.op_type in operators} == {wanted}
    assert {i.type.tensor_type.elem_type for i in model.graph.input} == {TensorProto.FLOAT}


def test_a_layer_that_overflows_float16_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Mul", ["h", "h"], ["square"], name="culprit"),
        helper.make_node("Mul", ["square", "h"], ["y"], name="last"),
    ]
    model = saved(tmp_path, *nodes)
    np.savez(tmp_path / "x.npz", x=np.full((1, 4), 1000, np.float32))
    result = porting("port", model, "--backend", "ascend-910b", "--dtype", "float16",
                     "--inputs", tmp_path / "x.npz", "-o", tmp_path / "out")  # fmt: skip
    assert result.returncode == 1
    assert "square" in result.stdout
    overflow = json.loads((tmp_path / "out" / "parity.json").read_text())["overflows"][0]
    assert (overflow["name"], overflow["reference_max"]) == ("square", 1e6)
