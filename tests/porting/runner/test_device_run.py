"""A port on a device: modules and devices that are missing, outputs, and where each node ran."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from porting import backends, schemas
from porting.errors import RunnerError
from porting.runner.device_run import DeviceRun
from porting.simulation.interpreter import Interpreter
from porting_kernels import dtypes
from porting_passes.lowering import add_surface_bodies

TEXT = """<ir_version: 10, opset_import: ["" : 20, "torch_npu" : 1]>
g (float[2, 3, 8] x, float16[8] w) => (float[2, 12] y) {
narrow = Cast <to = 10> (x)
normal, rstd = torch_npu.npu_rms_norm <epsilon = 1e-5> (narrow, w)
gated = torch_npu.npu_swiglu (normal)
shape = Shape (x)
first = Constant <value = int64[1] {0}> ()
batch = Gather (shape, first)
rest = Constant <value = int64[1] {-1}> ()
target = Concat <axis = 0> (batch, rest)
wide = Cast <to = 1> (gated)
y = Reshape (wide, target)
}"""


def port(kind: str = "python") -> Any:
    """What a run reads of a port folder."""
    surface = backends.get("ascend-910b").surface("torch_npu" if kind == "python" else "atc-onnx")
    model = ir.from_onnx_text(TEXT)
    for index, node in enumerate(model.graph):
        node.name = f"node_{index}"
    add_surface_bodies(model, surface.operator_set)
    return SimpleNamespace(surface=surface, executable=model)


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((2, 3, 8)).astype(np.float32), "w": rng.standard_normal(8).astype(np.float16)}


def test_outputs_and_placement(torch_npu: ModuleType) -> None:
    run = DeviceRun(port(), "cpu-standin")
    assert {node["device"] for node in run.placement()["nodes"]} == {None}
    got = run(feeds())
    want = dtypes.to_numpy(Interpreter(port().executable).run(feeds())["y"])
    np.testing.assert_array_equal(got["y"], want)
    placement = run.placement()
    schemas.validate("placement", placement)
    assert placement["stand_in"] is True
    assert placement["modules"] == {"torch_npu": "stand-in"}
    assert placement["calls"] == {"torch": 8, "torch_npu.npu_rms_norm": 1, "torch_npu.npu_swiglu": 1}
    by_name = {node["operator"]: node for node in placement["nodes"]}
    assert by_name["torch_npu.npu_rms_norm"]["runs"] == "torch_npu.npu_rms_norm"
    assert by_name["torch_npu.npu_rms_norm"]["device"] == "cpu"


def test_a_failing_call_ends_with_the_code_of_a_runner(torch_npu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("aclnnSwiGlu failed, error code 561002")

    monkeypatch.setattr(torch_npu, "npu_swiglu", refuse)
    with pytest.raises(RunnerError, match="561002") as error:
        DeviceRun(port(), "cpu-standin")(feeds())
    assert error.value.exit_code == 5


def test_without_the_module_the_run_does_not_start() -> None:
    with pytest.raises(RunnerError, match="torch_npu is not here") as error:
        DeviceRun(port(), "npu:0")
    assert error.value.exit_code == 5


def test_a_device_that_torch_does_not_have(torch_npu: ModuleType) -> None:
    with pytest.raises(RunnerError, match="device 'npu:0' cannot be used"):
        DeviceRun(port(), "npu:0")


def test_cpu_standin_takes_no_module_of_a_vendor(torch_npu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_npu, "STAND_IN", False)
    with pytest.raises(RunnerError, match="stand in for the vendor's"):
        DeviceRun(port(), "cpu-standin")


def test_a_converter_surface_has_no_calls_to_run() -> None:
    with pytest.raises(RunnerError, match="not one of Python calls"):
        DeviceRun(port("converter"), "cpu-standin")


def test_the_command_writes_outputs_and_placement(
    stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from click.testing import CliRunner

    from porting.cli.run import command
    from porting.port_folder import PortFolder

    monkeypatch.setattr(PortFolder, "open", classmethod(lambda cls, path: port()))
    np.savez(tmp_path / "x.npz", **feeds())
    arguments = [str(tmp_path), "--inputs", f"{tmp_path}/x.npz", "--outputs", f"{tmp_path}/y.npz"]
    result = CliRunner().invoke(command, [*arguments, "--device", "cpu-standin"], catch_exceptions=False)
    assert result.exit_code == 0
    with np.load(tmp_path / "y.npz") as written:
        np.testing.assert_array_equal(written["y"], dtypes.to_numpy(Interpreter(port().executable).run(feeds())["y"]))
    assert json.loads((tmp_path / "placement.json").read_text())["device"] == "cpu-standin"
