"""porting backends: a table for people, a schema for machines."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import pytest
from click.testing import CliRunner

from porting import backends
from porting.cli import backends as cli


def test_json_keeps_to_its_schema() -> None:
    result = CliRunner().invoke(cli.command, ["--json"])
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    schema = json.loads(files("porting.schemas").joinpath("backends.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, schema)
    assert {b["name"]: b["surfaces"][0]["name"] for b in content["backends"]} == {
        "ascend-910b": "atc-onnx",
        "cambricon-mlu370": "magicmind",
        "cambricon-mlu590": "torch_mlu_ops",
        "reference": "reference",
    }
    assert content["backends"][0]["surfaces"][0]["operators"] == 175


def test_people_see_what_they_can_ask_for() -> None:
    result = CliRunner().invoke(cli.command)
    assert result.exit_code == 0
    assert "atc-onnx (converter): 175 operators, opset 17; schemes none, w8a8-static" in result.stdout
    assert "reference (reference): every operator with a meaning, any opset" in result.stdout
    assert "next: atc --framework=5" in result.stdout


def test_a_broken_backend_is_shown_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [backends.Broken("reference", "acme 0.3", "ImportError: libacme.so")]
    monkeypatch.setattr(backends, "broken", lambda: broken)
    result = CliRunner().invoke(cli.command)
    assert result.exit_code == 0
    assert "reference  does not load [acme 0.3]: ImportError: libacme.so" in result.stderr
    assert "atc-onnx" in result.stdout
    assert cli.collect()["broken"][0]["error"] == "ImportError: libacme.so"
