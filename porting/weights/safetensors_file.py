"""The header of a safetensors file: which tensor lies where.

A file is an 8-byte little-endian length, that many bytes of JSON (tensor name -> dtype, shape, data_offsets), and data.
The header is data from a stranger: each field is checked before it is believed, and what is not exactly as the format
says is refused. Nothing is mapped; the one descriptor is closed again before ``read_header`` returns.
Source: huggingface/safetensors:README.md; the limit of 100 MB and the rule against holes are its reader's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from porting.errors import InvalidModelError

LONGEST_HEADER = 100_000_000
MOST_AXES = 64
"""As numpy and torch. Without a limit, multiplying the sizes of a made-up shape could take days."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
"""Name in the header -> torch type of the same bits."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class DataFile:
    """A safetensors file. path: where it is. size: its bytes when its header was read."""

    path: Path
    size: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A tensor in a file. dtype: a key of ``DTYPES``. offset: of its first byte in the file. length: in bytes."""

    name: str
    file: DataFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch type of the stored bits."""
        return DTYPES[self.dtype]

    @property
    def columns(self) -> int:
        """Elements of a row: the last axis; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """All other axes, flattened; 1 for a vector or a scalar."""
        return math.prod(self.shape[:-1])

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype} {list(self.shape)}) in {self.file.path.name}"


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """entries: in the order of the file. metadata: its ``__metadata__``. bytes_read: what finding this out took."""

    file: DataFile
    entries: dict[str, Entry]
    metadata: dict[str, str]
    bytes_read: int


def read_header(path: Path) -> Header:
    """Read and check the header of one file.

    Raises InvalidModelError, which names the file, the tensor, what the format requires and what was met.
    """
    try:
        # Not blocking: opening a named pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InvalidModelError(f"cannot read weights: {error}", where=path) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError("weights must be in a regular file", where=path)
        prefix = os.pread(descriptor, 8, 0)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > status.st_size - 8:
            raise _bad(path, "the file is shorter than its header says", f"8 + {length} bytes", status.st_size)
        if length > LONGEST_HEADER:
            raise _bad(path, "the header is too long", f"at most {LONGEST_HEADER} bytes", length)
        text = os.pread(descriptor, length, 8)
    except OSError as error:
        raise InvalidModelError(f"cannot read weights: {error}", where=path) from error
    finally:
        os.close(descriptor)
    if len(text) < length:
        raise _bad(path, "the file became shorter while it was read", f"{length} bytes", len(text))
    document = _parse(path, text)
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "__metadata__ is malformed", "an object of strings", _short(metadata))
    file = DataFile(path, status.st_size)
    entries = {name: _entry(file, name, fields, 8 + length) for name, fields in document.items()}
    _check_layout(file, entries, 8 + length)
    return Header(file, entries, metadata, 8 + length)


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad(path, "the header is no valid JSON", "an object with each name once", _short(error)) from error
    if not isinstance(document, dict):
        raise _bad(path, "the header is no JSON object", "an object", _short(document))
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice!r} is there twice")
    return found


def _entry(file: DataFile, name: str, fields: Any, data: int) -> Entry:
    if not name.isprintable():
        raise _bad(file.path, "a tensor name is not printable", "printable characters", _short(name))
    if not isinstance(fields, dict) or not fields.keys() >= {"dtype", "shape", "data_offsets"}:
        raise _bad(file.path, "malformed tensor", "dtype, shape and data_offsets", _short(fields), name)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _bad(file.path, "unknown dtype", ", ".join(DTYPES), _short(dtype), name)
    if not _are_sizes(shape) or len(shape) > MOST_AXES:
        raise _bad(file.path, "malformed shape", f"at most {MOST_AXES} integers from 0", _short(shape), name)
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _bad(file.path, "malformed data_offsets", "two integers from 0", _short(offsets), name)
    begin, end = offsets
    length = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != length:
        fault = f"data_offsets do not fit {dtype} {_short(shape)}"
        raise _bad(file.path, fault, f"{length} bytes", end - begin, name)
    if data + end > file.size:
        raise _bad(file.path, "the file is truncated", f"{data + end} bytes", file.size, name)
    return Entry(name, file, sys.intern(dtype), tuple(shape), data + begin, length)


def _are_sizes(value: Any) -> bool:
    """Lists of integers of 64 bits; bool is an int to Python."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 64 for size in value)


def _check_layout(file: DataFile, entries: dict[str, Entry], data: int) -> None:
    """Tensors follow each other without overlap and without holes, to the end of the file."""
    end = data
    for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.length)):
        if entry.offset != end:
            fault = "overlaps the tensor before it" if entry.offset < end else "leaves a hole before it"
            raise _bad(file.path, f"the data {fault}", f"begins at byte {end}", entry.offset, entry.name)
        end += entry.length
    if end != file.size:
        raise _bad(file.path, "the file is longer than its tensors", f"{end} bytes", file.size)


def _bad(path: Path, message: str, required: object, met: object, tensor: str | None = None) -> InvalidModelError:
    where = f"{path}" if tensor is None else f"{path}, tensor {_short(tensor)}"
    return InvalidModelError(message, required=required, met=met, where=where, fix="download the file again")


def _short(value: object) -> str:
    """A value for a message: one line of ASCII, whatever a broken file holds."""
    text = ascii(value) if not isinstance(value, Exception) else ascii(str(value))[1:-1]
    return text if len(text) <= 100 else f"{text[:97]}..."
