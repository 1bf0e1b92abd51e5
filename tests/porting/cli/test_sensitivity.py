"""`porting sensitivity` on a quantized language model, and its map given back to `porting port`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from porting import frontends, schemas
from porting.cli import port, sensitivity
from porting.errors import UsageError
from porting.frontends.source import Source


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def exported_once(deepseek_source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontends, "load", lambda text: deepseek_source)


def ported(deepseek: Path, out: Path, *more: object) -> Path:
    text = ("--inputs", deepseek / "text.txt")
    result = run(port.command, deepseek / "tiny", "--backend", "reference", "-o", out, *text, *more)
    assert result.exception is None, result.output
    return out


def test_layers_are_ranked_and_the_map_keeps_the_first_ones_in_float(deepseek: Path, tmp_path: Path) -> None:
    out = ported(deepseek, tmp_path / "out", "--scheme", "w8a8")
    result = run(sensitivity.command, out, "--top", 2, "--json", tmp_path / "s.json")
    assert result.exception is None, result.output
    document = json.loads((tmp_path / "s.json").read_text())
    schemas.validate("sensitivity", document)
    assert document["metric"] == "kl_mean"
    assert document["floor"] < 1e-9 < document["error"], "in float32, products in float leave nothing"
    gains = [group["gain"] for group in document["groups"]]
    assert gains == sorted(gains, reverse=True)
    assert document["unmeasured"] == []
    modules = {module for group in document["groups"] for module in group["modules"]}
    assert {"model.layers.1.mlp.experts", "model.layers.1.mlp.shared_experts.down_proj"} <= modules
    (pair,) = [g for g in document["groups"] if g["name"] == "model.layers.1.self_attn.q_a_proj"]
    assert pair["modules"] == [pair["name"], "model.layers.1.self_attn.kv_a_proj_with_mqa"], "runtimes join them"
    assert not any("kv_b_proj" in module or module.endswith("mlp.gate") for module in modules), "these stay in float"

    fragment = json.loads(result.stdout[result.stdout.index("{") :])
    assert fragment == document["scheme_map"]
    assert len(fragment) == 2
    schemas.validate("scheme_map", fragment)
    (tmp_path / "map.json").write_text(json.dumps(fragment))
    again = ported(deepseek, tmp_path / "again", "--scheme", "w8a8", "--scheme-map", tmp_path / "map.json")
    kept = {
        entry["name"].partition(" (")[0] for entry in json.loads((again / "port.json").read_text())["kept_in_float"]
    }
    assert {module for group in document["groups"][:2] for module in group["modules"]} <= kept
    before, after = (json.loads((o / "parity.json").read_text())["outputs"][0]["kl_mean"] for o in (out, again))
    assert after < before


def test_by_layer_needs_fewer_runs(deepseek: Path, tmp_path: Path) -> None:
    out = ported(deepseek, tmp_path / "out", "--scheme", "w8a8")
    result = run(sensitivity.command, out, "--by", "layer", "--json", tmp_path / "s.json")
    assert result.exception is None, result.output
    names = {group["name"] for group in json.loads((tmp_path / "s.json").read_text())["groups"]}
    assert {"model.layers.0", "model.layers.1"} <= names
    assert "layer kept in float" in result.stdout


def test_a_smoothed_port_is_replaced_with_its_norms(deepseek: Path, tmp_path: Path) -> None:
    """Behind a divided normalization the port's activation is not the source's: the float product needs its own."""
    smooth = ("--smooth", 0.5, "--calibrate", deepseek / "text.txt")
    out = ported(deepseek, tmp_path / "out", "--scheme", "w8a8", *smooth)
    parity = json.loads((out / "parity.json").read_text())
    assert max(layer["isolated"]["rel_l2"] for layer in parity["layers"]) < 0.1
    result = run(sensitivity.command, out, "--by", "layer", "--json", tmp_path / "s.json")
    assert result.exception is None, result.output
    document = json.loads((tmp_path / "s.json").read_text())
    assert document["floor"] < 1e-9 < document["error"]
    assert document["unmeasured"] == []


def test_a_port_in_float_has_nothing_to_rank(deepseek: Path, tmp_path: Path) -> None:
    out = ported(deepseek, tmp_path / "out")
    result = run(sensitivity.command, out)
    assert isinstance(result.exception, UsageError)
    assert "scheme none" in str(result.exception)
    assert result.exception.exit_code == 2
