"""DATA of a command as samples: arrays by input name, or text where the source is a language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from porting.errors import InvalidInputError, UsageError
from porting.frontends import Source
from porting.parity.language import IDS
from porting.samples import Ranges, Samples
from porting.text_samples import SUFFIX, TextSamples, is_text

Data = Samples | TextSamples


def open_data(path: Path, source: Source, inputs: Sequence[ir.Value], dims: Ranges | None = None) -> Data:
    """The samples in ``path`` for these graph inputs; dims: intervals of their symbols.

    Raises UsageError for text where the source brings no tokenizer, and what the readers of either kind raise.
    """
    if not is_text(path) or (source.tokenizer is None and path.suffix != SUFFIX):
        return Samples(path, inputs, dims)
    if source.tokenizer is None:
        raise UsageError(
            f"{path} is text, and {source.text} has no tokenizer",
            required="an .npz file with one array a graph input, or a checkpoint folder with a tokenizer",
        )
    ids = next(value for value in inputs if value.name == IDS)
    length = ids.shape[1] if ids.shape is not None else None
    if isinstance(length, int):
        return TextSamples(path, source.tokenizer, (length, length))
    known = (dims or {}).get("" if length is None else str(length.value))
    return TextSamples(path, source.tokenizer) if known is None else TextSamples(path, source.tokenizer, known)


def require_data(path: Path | None) -> None:
    """InvalidInputError where nothing is at a path that was given: before the work, not in the middle of it."""
    if path is not None and not path.exists():
        required = "an .npz file, a text file, or a folder of either"
        raise InvalidInputError(f"no data at {path}", required=required, met="no such file")
