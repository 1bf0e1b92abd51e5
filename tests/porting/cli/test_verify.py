"""`porting verify`: the files alone, held against the source; for CI."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from porting.cli import port, verify
from porting.errors import PortingError

CNN = Path(__file__).parents[3] / "examples" / "cnn"


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float port of the digits network for Cambricon, on four images."""
    folder = tmp_path_factory.mktemp("made")
    with np.load(CNN / "test.npz") as data:
        np.savez(folder / "x.npz", image=data["image"][:4])
    shutil.copy(CNN / "model.onnx", folder / "source.onnx")
    arguments = (
        folder / "source.onnx",
        "--backend",
        "cambricon-mlu370",
        "--dim",
        "batch=4",
        "--inputs",
        folder / "x.npz",
        "-o",
        folder / "out",
    )
    assert run(port.command, *arguments).return_value == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def test_it_measures_what_port_measured(made: Path, tmp_path: Path) -> None:
    html, junit = tmp_path / "r.html", tmp_path / "j.xml"
    result = run(verify.command, made / "out", "--strict", "--html", html, "--junit", junit)
    assert result.return_value == 0, result.output
    assert result.output.startswith("PASS")
    assert json.loads((made / "out" / "port.json").read_text())["dims"] == {"batch": [4, 4]}
    assert html.read_text() == (made / "out" / "report.html").read_text()
    suites = ElementTree.fromstring(junit.read_text())
    assert int(suites.attrib["tests"]) > 0
    assert suites.attrib["failures"] == "0"


def test_it_ends_with_the_files_that_it_wrote(made: Path, tmp_path: Path) -> None:
    html, junit = tmp_path / "r.html", tmp_path / "j.xml"
    assert "report" not in run(verify.command, made / "out").output
    output = run(verify.command, made / "out", "--html", html, "--junit", junit).output
    assert output.endswith(f"  junit: {junit}\n  report: {html}\n")
    assert re.search(r"layer [a-z]+\.[\w.]+ \(examples/cnn/model.py:\d+\), getitem", output), "the module comes first"


@pytest.mark.parametrize("option", ["--junit", "--html", "--baseline", "--update-baseline"])
def test_a_place_that_cannot_be_used_is_told_before_the_measurement(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("porting.verification.verify", lambda *_, **__: pytest.fail("it was measured"))
    more = (
        ["--baseline", tmp_path / "no" / "b.json", option]
        if option.startswith("--update")
        else [option, tmp_path / "no" / "f"]
    )
    error = run(verify.command, made / "out", *more).exception
    assert isinstance(error, PortingError)
    assert error.exit_code == 2


@pytest.mark.parametrize("name", ["weights.bin", "model.onnx", "provenance.jsonl"])
def test_a_changed_file_is_exit_2(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    error = run(verify.command, folder).exception
    assert isinstance(error, PortingError)
    assert error.exit_code == 2
    assert f"{name} has changed" in str(error)


def test_a_port_that_was_edited_into_another_claim_is_exit_2(folder: Path) -> None:
    text = (folder / "port.json").read_text()
    (folder / "port.json").write_text(text.replace('"scheme": "none"', '"scheme": "w8a8-static"'))
    error = run(verify.command, folder).exception
    assert isinstance(error, PortingError)
    assert error.exit_code == 2
    assert "port.json is not as it was written" in str(error)


def test_a_truncated_file_is_exit_2(folder: Path) -> None:
    data = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(data[: len(data) // 2])
    error = run(verify.command, folder).exception
    assert isinstance(error, PortingError)
    assert error.exit_code == 2


def test_another_source_is_exit_2(folder: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(CNN / "model.onnx")
    model.graph.node[0].name += "x"
    onnx.save(model, tmp_path / "other.onnx")
    error = run(verify.command, folder, "--source", tmp_path / "other.onnx").exception
    assert isinstance(error, PortingError)
    assert error.exit_code == 2
    assert "is not what" in str(error)


def test_a_folder_that_is_no_port_is_exit_2(tmp_path: Path) -> None:
    error = run(verify.command, tmp_path).exception
    assert isinstance(error, PortingError)
    assert error.exit_code == 2
    assert "is no port" in str(error)


def test_a_budget_that_is_broken_is_exit_1(folder: Path, tmp_path: Path) -> None:
    budget = tmp_path / "budget.json"
    limit = {"question": "outputs", "metric": "rel_l2", "max": 0.0, "source": "a limit that only exact results keep"}
    budget.write_text(json.dumps({"schema_version": 1, "limits": [limit]}))
    result = run(verify.command, folder, "--budget", budget)
    assert result.return_value == 1
    assert result.output.startswith("FAIL")


def test_a_baseline_is_written_and_then_held(folder: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert run(verify.command, folder, "--baseline", baseline, "--update-baseline").return_value == 0
    assert run(verify.command, folder, "--baseline", baseline).return_value == 0
    document = json.loads(baseline.read_text())
    document["outputs"][0]["nan_count"] = -1
    for layer in document["layers"]:
        layer["isolated"]["nan_count"] = -1
    baseline.write_text(json.dumps(document))
    result = run(verify.command, folder, "--baseline", baseline)
    assert result.return_value == 1
    assert "worse than the baseline" in result.output


def test_a_regression_is_in_the_junit_file(folder: Path, tmp_path: Path) -> None:
    baseline, junit = tmp_path / "baseline.json", tmp_path / "j.xml"
    run(verify.command, folder, "--baseline", baseline, "--update-baseline")
    document = json.loads(baseline.read_text())
    document["outputs"][0]["nan_count"] = -1
    baseline.write_text(json.dumps(document))
    assert run(verify.command, folder, "--baseline", baseline, "--junit", junit).return_value == 1
    suites = ElementTree.fromstring(junit.read_text())
    assert suites.attrib["failures"] == "1"


def test_new_inputs_are_cut_within_the_range_that_was_ported(tmp_path: Path) -> None:
    """The source leaves the batch open; the port bounds it by 3, and 7 rows are three samples."""
    source = tmp_path / "source.onnx"
    shutil.copy(CNN / "model.onnx", source)
    with np.load(CNN / "test.npz") as data:
        np.savez(tmp_path / "x.npz", image=data["image"][:7])
    arguments = (
        "--backend",
        "reference",
        "--dim",
        "batch=1..3",
        "--inputs",
        tmp_path / "x.npz",
        "-o",
        tmp_path / "out",
    )
    assert run(port.command, source, *arguments).return_value == 0
    assert json.loads((tmp_path / "out" / "port.json").read_text())["dims"] == {"batch": [1, 3]}
    html = tmp_path / "r.html"
    assert run(verify.command, tmp_path / "out", "--inputs", tmp_path / "x.npz", "--html", html).return_value == 0
    assert "3 batches" in html.read_text()
