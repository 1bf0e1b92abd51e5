"""`porting explain`: by every name that a user may know a thing by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from porting import frontends, schemas
from porting.cli import explain, port
from porting.errors import UsageError
from porting.frontends.source import Source


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def out(deepseek: Path, deepseek_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A w8a8 port in bfloat16 on a text so short that experts are left over."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "short.txt").write_text("ab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontends, "load", lambda text: deepseek_source)
        result = run(
            port.command, deepseek / "tiny", "--backend", "reference", "--scheme", "w8a8", "--dtype", "bfloat16",
            "--inputs", folder / "short.txt", "-o", folder / "out",
        )  # fmt: skip
    assert result.exception is None, result.output
    return folder / "out"


def document(out: Path, name: str) -> dict[str, Any]:
    result = run(explain.command, out, name, "--json")
    assert result.exception is None, result.output
    parsed: dict[str, Any] = json.loads(result.stdout)
    schemas.validate("explanation", parsed)
    assert parsed["name"] == name
    return parsed


def test_a_module_is_everything_inside_it(out: Path) -> None:
    found = document(out, "model.layers.1.mlp.experts")
    assert found["kind"] == "module"
    operators = {value["operator"] for value in found["values"]}
    assert {"porting.MoeDispatch", "porting.QuantizedGroupedMatmul", "porting.MoeCombine"} <= operators
    assert [q["weight_bits"] for q in found["quantized"]] == [8, 8]
    assert found["decoder_layer"]["module"] == "model.layers.1"
    (left,) = found["untested_experts"]
    assert left["router"] == "model.layers.1.mlp.gate"
    assert 2 <= len(left["experts"]) < 8, "two tokens, three experts each, of eight"


def test_a_fused_value_says_from_what_and_by_which_rules(out: Path) -> None:
    gate = document(out, "model.layers.1.mlp.gate")
    (ids,) = [v for v in gate["values"] if v["operator"] == "porting.GatingTopK" and v["dtype"] == "int64"]
    assert ids["class"] == "DeepseekV3TopkRouter"
    rules = {rule["rule"]: rule["contract"] for rule in ids["rules"]}
    assert rules["fuse_gating_top_k"]["kind"] == "tolerance"
    assert ids["surface"]["verdict"] == "legal"
    assert ids["isolated"]["mismatches"] == 0
    kept = {entry["operator"]: entry["reason"] for entry in gate["kept_in_float"]}
    assert "Gemm" in kept


def test_the_same_thing_is_found_by_value_node_source_and_weight(out: Path) -> None:
    (norm,) = document(out, "model.layers.0.self_attn.o_proj")["values"][:1]
    for name in (norm["value"], norm["node"], norm["sources"][0], "model.layers.0.self_attn.o_proj.weight"):
        found = document(out, name)
        assert norm["value"] in [value["value"] for value in found["values"]], name


def test_a_value_that_was_fused_away_leads_to_what_it_is_part_of(out: Path) -> None:
    (product,) = [v for v in document(out, "model.layers.1.mlp.gate")["values"] if v["dtype"] == "int64"]
    inner = product["sources"][-1]
    found = document(out, inner)
    assert found["kind"] in ("value of the source", "value of the port")
    assert product["value"] in [value["value"] for value in found["values"]] or found["values"][0]["value"] == inner


def test_a_weight_that_stays_in_float_says_why(out: Path) -> None:
    found = document(out, "model.layers.0.self_attn")
    reasons = [entry["reason"] for entry in found["kept_in_float"] if entry["operator"] == "MLAAttention"]
    assert len(reasons) == 1
    assert reasons[0]


def test_people_get_lines(out: Path) -> None:
    text = run(explain.command, out, "model.layers.1.mlp.experts").output
    assert text.startswith("model.layers.1.mlp.experts: module, ")
    for part in (
        "rule     fuse_moe_dispatch: bit-exact",
        "surface  legal",
        "parity   isolated rel L2",
        "untested model.layers.1",
        "int8 weights, one scale an output channel; int8 activations by row",
        "layer    model.layers.1: rel L2",
    ):
        assert part in text, text  # fmt: skip


@pytest.mark.parametrize("name", ["layers.1.mlp.gate", "model.layers.1.mlp.gat"])
def test_an_unknown_name_lists_near_ones(out: Path, name: str) -> None:
    result = run(explain.command, out, name)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert "model.layers.1.mlp.gate" in str(result.exception)


def test_nothing_near_is_said_too(out: Path) -> None:
    assert isinstance(run(explain.command, out, "zzzzzz").exception, UsageError)
