"""Errors of a converted folder against what numpy makes of the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ascend_reader import AscendReader
from cambricon_reader import CambriconReader
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from porting import schemas
from porting.checkpoint.comparison import Comparison, compare
from porting.checkpoint.source import Source
from porting.cli.checkpoint import compare as command
from porting.errors import InvalidModelError

from .conftest import Convert


def by_name(found: Comparison) -> dict[str, float]:
    return {each.name: each.rel_l2 for each in found.tensors}


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_relative_errors_are_those_of_independent_readers(
    scheme: str, converted: Convert, source_folder: Path, values: dict[str, torch.Tensor]
) -> None:
    out = converted(scheme, "ascend", "cambricon")
    ascend, cambricon = AscendReader(out / "ascend"), CambriconReader(out / "cambricon")
    source = Source(source_folder)
    ours = by_name(compare(source, out / "ascend", threads=2)), by_name(compare(source, out / "cambricon"))
    for name, value in values.items():
        weight = value.double().numpy()
        read = (
            ascend.weight(name),
            cambricon.weight(name.removesuffix(".weight")) if name.endswith(".weight") else weight,
        )
        for errors, other in zip(ours, read, strict=True):
            expected = np.linalg.norm(other - weight) / np.linalg.norm(weight)
            assert errors[name] == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_the_worst_row_and_the_share_at_the_ends(converted: Convert, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    weight = torch.full((4, 64), 1.0)
    weight[2] = 0.01  # Next to a number a hundred times as large, the others fall between two codes.
    weight[2, 0] = 1.0
    save_file({"model.layers.0.mlp.up_proj.weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    out = converted("w8a8", "ascend", folder=folder)
    (found,) = compare(Source(folder), out).tensors
    assert found.worst_row == 2
    assert found.saturated == (3 * 64 + 1) / (4 * 64)
    codes = np.rint(weight[2].numpy() * 127)
    expected = np.linalg.norm(codes / 127 - weight[2].numpy()) / np.linalg.norm(weight[2].numpy())
    assert found.worst_rel_l2 == pytest.approx(expected, rel=1e-5)


def test_the_command_ends_with_1_past_a_limit(converted: Convert, source_folder: Path, tmp_path: Path) -> None:
    out = converted("w8a8", "ascend")
    for limit, code in (("0.5", 0), ("1e-6", 1)):
        arguments = [str(source_folder), str(out), "--max-rel-l2", limit, "--json", str(tmp_path / "errors.json")]
        result = CliRunner().invoke(command.command, arguments, standalone_mode=False)
        assert result.return_value == code, result.output
        assert ("past the limit" in result.output) == bool(code)
    schemas.validate("weight_errors", json.loads((tmp_path / "errors.json").read_text()))


def test_a_folder_that_lacks_a_tensor_is_refused(converted: Convert, source_folder: Path) -> None:
    out = converted("bf16", "cambricon")
    path = out / "model-00001-of-00003.safetensors"
    with safe_open(path, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    index = out / "model.safetensors.index.json"
    tensors.pop("model.embed_tokens.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    index.write_text(index.read_text().replace('"model.embed_tokens.weight": "model-00001-of-00003.safetensors",', ""))
    with pytest.raises(InvalidModelError, match="lacks"):
        compare(Source(source_folder), out)
