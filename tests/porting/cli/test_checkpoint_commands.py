"""porting checkpoint plan, convert and validate as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import fp8_checkpoint
import pytest
from click.testing import CliRunner, Result

from porting.cli import cli
from porting.errors import InvalidModelError, UsageError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "source"
    fp8_checkpoint.write(folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["checkpoint", *map(str, arguments)], standalone_mode=False)


def test_a_plan_says_what_and_why(source: Path, tmp_path: Path) -> None:
    result = run("plan", source, "--scheme", "w4a8", "--format", "ascend", "--json", tmp_path / "plan.json")
    assert result.exception is None, result.exception
    assert "int4 channel mse" in result.output
    assert "the router: a small error here sends a token to other experts" in result.output
    assert "disk needed" in result.output
    assert json.loads((tmp_path / "plan.json").read_text())["scheme"] == "w4a8"


def test_a_conversion_tells_of_scales_that_are_no_powers_of_two(source: Path, tmp_path: Path) -> None:
    result = run("convert", source, "--scheme", "w8a8", "--format", "ascend", "-o", tmp_path / "out")
    assert result.exception is None, result.exception
    assert "scale_fmt ue8m0 of config.json does not hold for all of them" in result.output
    assert "3 x model.layers.*.self_attn.o_proj.weight_scale_inv" in result.output
    assert "converted" not in result.output
    valid = run("validate", tmp_path / "out", "--digests")
    assert valid.exception is None
    assert "ascend, in order, digests too" in valid.output
    (tmp_path / "out" / "quant_model_description.json").write_text("{}")
    broken = run("validate", tmp_path / "out")
    assert isinstance(broken.exception, InvalidModelError)
    assert broken.exception.exit_code == 2
    assert "... and" in broken.output


def test_all_formats_of_a_conversion_are_validated(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        run("convert", source, "--scheme", "w8a8", "--format", "ascend", "--format", "sglang", "-o", out).exception
        is None
    )
    result = run("validate", out)
    assert result.exception is None, result.output
    assert result.output == f"{out / 'ascend'}: ascend, in order\n{out / 'sglang'}: sglang, in order\n"
    (out / "sglang" / "stray.safetensors").write_bytes(b"")
    result = run("validate", out)
    assert isinstance(result.exception, InvalidModelError)
    assert f"{out / 'sglang'}: sglang, 1 faults" in result.output


def test_where_files_go_is_said_once(source: Path, tmp_path: Path) -> None:
    common = ("convert", source, "--scheme", "w8a8", "--format", "ascend")
    assert isinstance(run(*common).exception, UsageError)
    assert isinstance(run(*common, "--sink", "null", "-o", tmp_path / "out").exception, UsageError)
    assert run(*common, "--sink", "null").exception is None


def test_unknown_commands_name_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["checkpoint", "validat"])
    assert result.exit_code == 2
    assert "Did you mean 'validate'?" in result.output
