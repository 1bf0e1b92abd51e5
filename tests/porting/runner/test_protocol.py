"""Runners as commands: outputs, failures, and what their checks make of the verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from porting.errors import RunnerError
from porting.parity.budgets import load_budget
from porting.runner.checks import runner_checks
from porting.runner.protocol import Runner

SCRIPT = """
import json, pathlib, sys
import numpy as np
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
x = np.load(options["--inputs"])["x"]
{body}
"""
GOOD = 'np.savez(options["--outputs"], y=x * 2)\n'
PLACED = 'pathlib.Path(options["--outputs"]).with_name("placement.json").write_text(json.dumps({"device": "npu:0"}))\n'


def runner(tmp_path: Path, body: str) -> Runner:
    script = tmp_path / "runner.py"
    script.write_text(SCRIPT.replace("{body}", body), encoding="utf-8")
    return Runner(f"{sys.executable} '{script}'")


def sample() -> dict[str, np.ndarray]:
    return {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_outputs_and_placement(tmp_path: Path) -> None:
    one = runner(tmp_path, GOOD + PLACED)
    np.testing.assert_array_equal(one(sample())["y"], sample()["x"] * 2)
    assert one.placement == {"device": "npu:0"}
    assert runner(tmp_path, GOOD)(sample()).keys() == {"y"}


FAILURES = {
    "exit code": ('sys.exit("aclnnMatmul failed")', "aclnnMatmul failed"),
    "no outputs": ("pass", "left no outputs"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_runner_that_fails(tmp_path: Path, name: str) -> None:
    body, message = FAILURES[name]
    with pytest.raises(RunnerError, match=message) as error:
        runner(tmp_path, body)(sample())
    assert error.value.exit_code == 5


@pytest.mark.parametrize("command", ["", "no-such-program-here", "'unclosed"])
def test_a_command_that_cannot_run(command: str) -> None:
    with pytest.raises(RunnerError):
        Runner(command)(sample())


def port() -> Any:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 20]> g (float[2, 3] x) => (float[2, 3] y) {
    y = Add (x, x) }""")
    return SimpleNamespace(executable=model, manifest={"scheme": "none", "dtype": "float32"})


def test_a_runner_that_computes_the_port_passes(tmp_path: Path) -> None:
    checks = runner_checks(runner(tmp_path, GOOD), port(), [sample()], load_budget(None))
    assert checks
    assert {check.verdict for check in checks} == {"pass"}


def test_a_runner_that_computes_something_else_fails(tmp_path: Path) -> None:
    wrong = runner(tmp_path, 'np.savez(options["--outputs"], y=x * 2.01)\n')
    checks = runner_checks(wrong, port(), [sample()], load_budget(None))
    assert "fail" in {check.verdict for check in checks}
    assert any("runner" in check.where for check in checks)


def test_a_runner_with_other_outputs_is_an_error(tmp_path: Path) -> None:
    other = runner(tmp_path, 'np.savez(options["--outputs"], z=x)\n')
    with pytest.raises(RunnerError, match="other outputs"):
        runner_checks(other, port(), [sample()], load_budget(None))
