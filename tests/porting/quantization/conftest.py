"""Checkpoint folders with float8 weights, and what they are worth in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from porting.weights.store import WeightStore


@pytest.fixture
def store_of(tmp_path: Path) -> Callable[[Mapping[str, torch.Tensor]], WeightStore]:
    """Tensors -> a store that reads them."""

    def write(tensors: Mapping[str, torch.Tensor]) -> WeightStore:
        save_file(dict(tensors), tmp_path / "model.safetensors")
        return WeightStore(tmp_path)

    return write


@pytest.fixture
def experts(store_of: Callable[[Mapping[str, torch.Tensor]], WeightStore]) -> tuple[WeightStore, torch.Tensor]:
    """Three experts ``e0.weight`` ... [200, 256] with ragged 128 x 128 blocks, and their values [3, 200, 256]."""
    g = torch.Generator().manual_seed(7)
    tensors, values = {}, []
    for expert in range(3):
        codes = torch.randn(200, 256, generator=g).mul(30).to(torch.float8_e4m3fn)
        scales = torch.rand(2, 2, generator=g) + 0.1
        tensors |= {f"e{expert}.weight": codes, f"e{expert}.weight_scale_inv": scales}
        spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
        values.append(codes.to(torch.float32) * spread[:200])
    return store_of(tensors), torch.stack(values)
