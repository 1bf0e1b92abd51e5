"""porting doctor: what is installed and what is broken, without importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from porting import backends
from porting.cli import doctor


def test_versions_and_backends() -> None:
    result = CliRunner().invoke(doctor.command, ["--json"])
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert content["packages"]["onnx"] == version("onnx")
    assert content["python"] == ".".join(map(str, sys.version_info[:3]))
    assert content["backends"] == backends.names()
    assert isinstance(content["native"], bool)
    assert content["broken"] == []


def test_what_is_absent_or_broken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "NATIVE", "porting_kernels.no_such_module")
    broken = [backends.Broken("acme-npu", "acme 0.3", "ImportError: libacme.so")]
    monkeypatch.setattr(backends, "broken", lambda: broken)
    result = CliRunner().invoke(doctor.command)
    assert result.exit_code == 0
    assert "no-such-package not installed" in result.stdout
    assert "native module  absent" in result.stdout
    assert "acme-npu of acme 0.3: ImportError: libacme.so" in result.stdout


def test_doctor_imports_no_framework() -> None:
    code = (
        "import sys; from porting.cli import doctor; doctor.collect();"
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
