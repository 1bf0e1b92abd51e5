"""Text to token ids by the tokenizer that a checkpoint folder brings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from porting.errors import InvalidModelError

FILE = "tokenizer.json"


def tokenizer(folder: Path) -> Callable[[str], list[int]] | None:
    """A function from text to ids, without special tokens; None where the folder has no ``tokenizer.json``.

    The file is read at the first call. InvalidModelError when it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None

    @functools.cache
    def loaded() -> Callable[[str], list[int]]:
        from tokenizers import Tokenizer

        try:
            found = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise InvalidModelError("cannot read the tokenizer", met=error, where=path) from error
        return lambda text: list(found.encode(text, add_special_tokens=False).ids)

    return lambda text: loaded()(text)
