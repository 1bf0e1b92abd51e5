"""Text cut into windows of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from porting.errors import InvalidInputError, UsageError
from porting.text_samples import TextSamples, is_text


def of_bytes(text: str) -> list[int]:
    return list(text.encode())


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def windows(samples: TextSamples) -> list[list[list[int]]]:
    return [sample["input_ids"].tolist() for sample in samples]


def test_windows_follow_each_other_and_the_last_is_short(tmp_path: Path) -> None:
    samples = TextSamples(written(tmp_path, a="abcdefgh") / "a.txt", of_bytes, (1, 3))
    assert windows(samples) == [[[97, 98, 99]], [[100, 101, 102]], [[103, 104]]]
    assert (len(samples), samples.examples) == (3, 3)
    assert next(iter(samples))["input_ids"].dtype == np.int64
    assert windows(samples) == windows(samples)


def test_files_are_read_by_name_and_windows_do_not_cross_them(tmp_path: Path) -> None:
    samples = TextSamples(written(tmp_path, b="xyz", a="abcde"), of_bytes, (2, 4))
    assert windows(samples) == [[[97, 98, 99, 100]], [[120, 121, 122]]], "a single token that is left predicts nothing"


def test_a_fixed_length_leaves_out_what_does_not_fill_it(tmp_path: Path) -> None:
    assert windows(TextSamples(written(tmp_path, a="abcde"), of_bytes, (4, 4))) == [[[97, 98, 99, 100]]]


def test_what_is_text(tmp_path: Path) -> None:
    folder = written(tmp_path, a="text")
    assert is_text(folder)
    assert is_text(folder / "a.txt")
    np.savez(folder / "x.npz", input_ids=np.zeros((1, 2), np.int64))
    assert not is_text(folder)
    assert not is_text(folder / "x.npz")


def test_bad_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no text at"):
        TextSamples(tmp_path / "absent.txt", of_bytes)
    with pytest.raises(InvalidInputError, match="too short"):
        TextSamples(written(tmp_path, a="x"), of_bytes)
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(InvalidInputError, match=r"is not UTF-8\n.*met.*byte 3"):
        TextSamples(tmp_path, of_bytes)
    with pytest.raises(UsageError, match="predicts nothing"):
        TextSamples(tmp_path, of_bytes, (1, 1))
