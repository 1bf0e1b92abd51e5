"""Reads past the page cache give the bytes of the file, wherever they lie; what cannot be read so is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from porting.errors import InvalidModelError
from porting.weights.direct_read import LEAST, DirectRead
from porting.weights.store import WeightStore

DATA = np.random.default_rng(0).bytes(3 * LEAST + 777)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize(
    "offset, nbytes",
    [(0, LEAST), (1, LEAST), (4095, LEAST + 1), (4096, LEAST + 4096), (8, len(DATA) - 8), (0, len(DATA))],
)
def test_any_place_of_a_file(file: Path, offset: int, nbytes: int) -> None:
    found = DirectRead(descriptors=1).read(file, offset, nbytes)
    assert found is not None
    assert found.numpy().tobytes() == DATA[offset : offset + nbytes]
    assert found.data_ptr() % 4096 == offset % 4096


def test_a_few_bytes_and_a_file_that_is_too_short_are_left_to_others(file: Path) -> None:
    direct = DirectRead(descriptors=1)
    assert direct.read(file, 0, LEAST - 1) is None
    assert direct.read(file, 4096, len(DATA)) is None
    assert direct.read(file, 0, LEAST) is not None


@pytest.mark.parametrize("call", ["open", "preadv"])
def test_a_file_system_that_refuses_is_asked_once(file: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*_: object) -> int:
        asked.append(call)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, call, refuse)
    direct = DirectRead(descriptors=1)
    assert direct.read(file, 0, LEAST) is direct.read(file, 0, LEAST) is None
    assert asked == [call]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_a_store_reads_the_same(checkpoint, dtype: torch.dtype) -> None:
    bits = torch.randint(0, 256, (700, 4096), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    folder = checkpoint({"model.safetensors": {"odd": bits[:1, :3].clone(), "w": bits.view(dtype)}})
    usual, past = WeightStore(folder), WeightStore(folder, past_cache=True)
    entry = usual.entry("w")
    for rows in (range(700), range(3, 699), range(1, 5)):
        expected = usual.read_box(entry, rows, range(entry.columns))
        found = past.read_box(past.entry("w"), rows, range(entry.columns))
        assert found.dtype == expected.dtype
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))
    assert past.data_bytes_read == usual.data_bytes_read
    past.close()


def test_a_file_that_became_shorter_is_named(checkpoint) -> None:
    folder = checkpoint({"model.safetensors": {"w": torch.zeros(1024, 1024)}})
    store = WeightStore(folder, past_cache=True)
    os.truncate(folder / "model.safetensors", 1 << 20)
    with pytest.raises(InvalidModelError, match="has become shorter") as caught:
        store.tensor("w")
    assert "model.safetensors, tensor w" in str(caught.value)
    store.close()
