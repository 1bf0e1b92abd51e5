"""Files appear whole and with the digest of their bytes, in whatever order these come."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from porting.checkpoint import shard_file
from porting.checkpoint.shard_file import DirectFile, ShardFile


@pytest.fixture
def flusher() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def pieces(data: bytes, seed: int, count: int = 40) -> list[tuple[int, memoryview]]:
    random = np.random.default_rng(seed)
    cuts = [0, *sorted(int(cut) for cut in random.choice(len(data), count, replace=False)), len(data)]
    found = [(begin, memoryview(data)[begin:end]) for begin, end in itertools.pairwise(cuts)]
    return [found[int(number)] for number in random.permutation(len(found))]


DATA = np.random.default_rng(0).bytes(300_001)


@pytest.mark.parametrize("held", [1 << 20, 1 << 10])
@pytest.mark.parametrize("seed", range(3))
def test_bytes_and_digest_do_not_depend_on_the_order(
    held: int, seed: int, flusher: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "_HELD", held)  # The small one is passed: digests come from the finished file.
    monkeypatch.setattr(shard_file, "_BUFFER", 1 << 16)
    file = ShardFile(tmp_path / "x.safetensors", flusher)
    for offset, part in pieces(DATA, seed):
        file.put(offset, part)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors.partial"]
    assert file.finish() == "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert (tmp_path / "x.safetensors").read_bytes() == DATA


@pytest.mark.parametrize("held", [1 << 20, 1 << 10])
def test_columns_of_a_matrix_come_apart(
    held: int, flusher: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes before, a matrix of 7 rows by columns in any order, and bytes after it, some of them too early."""
    monkeypatch.setattr(shard_file, "_HELD", held)
    before, rows, width = 1001, 7, 3000
    matrix = np.frombuffer(DATA, np.uint8, rows * width, before).reshape(rows, width)
    file = ShardFile(tmp_path / "x.safetensors", flusher)
    file.put(0, memoryview(DATA)[:before])
    end = before + rows * width
    file.put(end + 5000, memoryview(DATA)[end + 5000 :])
    for begin, last in ((1000, 2999), (2999, 3000), (0, 1000)):
        run = np.ascontiguousarray(matrix[:, begin:last])
        file.put_apart(before + begin, run.reshape(-1).data, last - begin, width)
    file.put(end, memoryview(DATA)[end : end + 5000])
    assert file.finish() == "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert (tmp_path / "x.safetensors").read_bytes() == DATA


def test_an_abandoned_file_is_gone(flusher: ThreadPoolExecutor, tmp_path: Path) -> None:
    file = ShardFile(tmp_path / "x.safetensors", flusher)
    file.put(0, memoryview(DATA))
    file.abandon()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("refuses", [True, False])
def test_a_file_system_without_direct_writing_is_written_as_usual(
    refuses: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def without(path: object, flags: int, *rest: int) -> int:
        if refuses and flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", without)
    file = DirectFile(tmp_path / "x")
    # Memory that is not aligned: the file system may refuse it, whatever the length.
    file.write(0, memoryview(DATA)[1:8193])
    file.write(8192, memoryview(DATA)[8193:])
    file.close(sync=True)
    file.close(sync=True)
    assert (tmp_path / "x").read_bytes() == DATA[1:]
