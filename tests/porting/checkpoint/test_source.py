"""Sources: what is taken for a weight, for its scale, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from porting.checkpoint.source import Source
from porting.errors import InvalidModelError

NAME = "model.layers.0.mlp.up_proj.weight"


def folder(path: Path, tensors: dict[str, torch.Tensor], config: str = "{}") -> Path:
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(config)
    return path


def test_weights_find_their_scales_in_other_files(source_folder: Path) -> None:
    source = Source(source_folder)
    apart = [tensor for tensor in source.tensors.values() if tensor.scale and tensor.scale.file != tensor.entry.file]
    assert apart, "the cut of the example lies between a weight and its scale"
    assert not [name for name in source.tensors if name.endswith("_scale_inv")]
    assert source.family == "deepseek_v3"
    assert source.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({NAME: torch.ones(4, 4).to(torch.float8_e4m3fn)}, "no scale"),
        ({NAME: torch.ones(4, 4), f"{NAME}_scale_inv": torch.ones(1, 1)}, "without an 8-bit weight"),
        ({NAME: torch.ones(4, 4).to(torch.int8), f"{NAME}_scale": torch.ones(4, 1)}, "quantized already"),
        ({NAME.replace("weight", "qweight"): torch.ones(4, 4).to(torch.int8)}, "quantized already"),
        ({NAME: torch.ones(4, 4).to(torch.float8_e4m3fn), f"{NAME}_scale_inv": torch.ones(3, 3)}, "wrong shape"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(
    tensors: dict[str, torch.Tensor], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidModelError, match=words) as error:
        Source(folder(tmp_path / "bad", tensors))
    assert "model.layers.0" in str(error.value)


@pytest.mark.parametrize("config", ["[]", "{", "null"])
def test_a_config_that_is_none_is_refused(config: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"config\.json|JSON"):
        Source(folder(tmp_path / "bad", {NAME: torch.ones(4, 4)}, config))


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "bad", {NAME: torch.ones(4, 4)})
    (path / "config.json").unlink()
    with pytest.raises(InvalidModelError, match=r"no config\.json"):
        Source(path)


def test_the_digest_tells_files_headers_and_config_apart(tmp_path: Path) -> None:
    path = folder(tmp_path / "one", {NAME: torch.ones(4, 4)})
    before = Source(path).digest()
    assert Source(path).digest() == before
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert Source(path).digest() != before
