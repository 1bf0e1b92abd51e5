"""Checkpoint folders written by the safetensors library, and what their weights are worth, in plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Tensors = Mapping[str, torch.Tensor]


def write(folder: Path, shards: Mapping[str, Tensors], config: dict[str, Any] | None = None) -> Path:
    """One shard called model.safetensors stands alone; others get an index."""
    folder.mkdir(exist_ok=True)
    for file, tensors in shards.items():
        save_file(dict(tensors), folder / file, metadata={"format": "pt"})
    if list(shards) != ["model.safetensors"]:
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def plain_dequantized(codes: torch.Tensor, scales: torch.Tensor, block: tuple[int, int] = (128, 128)) -> torch.Tensor:
    """float32 values of block-scaled codes, any leading axes."""
    height, width = codes.shape[-2:]
    spread = scales.to(torch.float32).repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return codes.to(torch.float32) * spread[..., :height, :width]


def quantized(shape: tuple[int, ...], seed: int, block: tuple[int, int] = (128, 128)) -> tuple[torch.Tensor, ...]:
    """Random e4m3 codes and float32 scales that are no powers of two."""
    g = torch.Generator().manual_seed(seed)
    grid = (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))
    return torch.randn(shape, generator=g).mul(30).to(torch.float8_e4m3fn), torch.rand(grid, generator=g) + 0.1


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder: checkpoint({file: tensors}, config)."""
    return lambda shards, config=None: write(tmp_path / "checkpoint", shards, config)


@pytest.fixture(name="quantized")
def _quantized() -> Callable[..., tuple[torch.Tensor, ...]]:
    return quantized


@pytest.fixture(name="dequantized")
def _dequantized() -> Callable[..., torch.Tensor]:
    return plain_dequantized
