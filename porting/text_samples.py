"""Text as DATA for a language model: tokens by the checkpoint's own tokenizer, cut into windows.

A sample is one window: input_ids, int64 [1, window]. Windows follow each other without overlap and do not cross from
one file into the next; the last of a file is as short as what is left, and one of a single token, which predicts
nothing, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from porting.errors import InvalidInputError, UsageError
from porting.parity.language import IDS

WINDOW = 256
"""Tokens a sample, where the port's range of sequence lengths allows."""
SUFFIX = ".txt"


Tokenizer = Callable[[str], list[int]]
"""Text to token ids, without special tokens."""


class TextSamples:
    """The windows of a text file or of the ``*.txt`` files of a folder, by name: sized, and always in the same order.

    sequence: (least, greatest) window. Raises InvalidInputError for a file that is not UTF-8 or no text at all, and
    UsageError where fewer than two tokens fit into a window.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, sequence: tuple[int, int] = (1, WINDOW)) -> None:
        least, most = sequence
        window = min(most, max(WINDOW, least))
        if window < 2:
            raise UsageError("a window of one token predicts nothing", required="2 or more", met=window, where="--dim")
        self._windows: list[np.ndarray] = []
        for file in _files(path):
            ids = np.asarray(tokenizer(_read(file)), dtype=np.int64)
            cuts = [ids[start : start + window] for start in range(0, len(ids), window)]
            self._windows += [cut[None] for cut in cuts if len(cut) >= max(2, least)]
        if not self._windows:
            raise InvalidInputError(
                "the text is too short", required=f"{max(2, least)} tokens in one file", met="fewer", where=path
            )

    def __len__(self) -> int:
        return len(self._windows)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for window in self._windows:
            yield {IDS: window}

    @property
    def examples(self) -> int:
        """Windows."""
        return len(self._windows)


def is_text(path: Path) -> bool:
    """Whether DATA is text: a file that ends in none of numpy's ways, or a folder of ``.txt`` and no ``.npz``."""
    if path.is_dir():
        suffixes = {file.suffix for file in path.iterdir()}
        return SUFFIX in suffixes and ".npz" not in suffixes
    return path.is_file() and path.suffix not in (".npz", ".npy", ".zip")


def _files(path: Path) -> list[Path]:
    files = sorted(file for file in path.iterdir() if file.suffix == SUFFIX) if path.is_dir() else [path]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InvalidInputError(f"no text at {missing[0]}", required="a .txt file or a folder of them")
    return files


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8", met=f"byte {error.start}: {error.reason}") from error
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}", met=error.strerror) from error
