"""Bytes of tensors in files, read with ``pread`` through a few descriptors and never mapped."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from porting.errors import InvalidModelError
from porting.weights.descriptors import DescriptorPool
from porting.weights.direct_read import DirectRead
from porting.weights.safetensors_file import Entry

PAGE = 4096
"""Bytes that a disk reads at least: holes below this are read over, not skipped."""


class Reader:
    """Reads entries, wherever their files are. Safe to use from several threads.

    data_bytes_read: so far. nan_codes: NaN among the 8-bit floats read so far, by tensor (a region read twice counts
    twice). past_cache: large reads leave the page cache alone, for files that are read once.
    """

    def __init__(self, *, descriptors: int = 64, past_cache: bool = False) -> None:
        self.data_bytes_read = 0
        self.nan_codes: Counter[str] = Counter()
        self._pool = DescriptorPool(descriptors)
        self._direct = DirectRead(descriptors=descriptors) if past_cache else None
        self._lock = threading.Lock()

    def read_box(self, entry: Entry, rows: range, columns: range) -> torch.Tensor:
        """Rows and columns of an entry seen as a matrix [entry.rows, entry.columns], in its stored dtype.

        rows, columns: ascending, any step. What lies between is not read, except holes below a page.
        """
        dtype = entry.torch_dtype
        if not rows or not columns:
            return torch.empty(len(rows), len(columns), dtype=dtype)
        width, pitch = columns[-1] + 1 - columns[0], entry.columns * rows.step
        itemsize = dtype.itemsize
        start = rows[0] * entry.columns + columns[0]
        if (pitch - width) * itemsize < PAGE:
            flat = self._read(entry, start, (len(rows) - 1) * pitch + width)
        else:
            flat = torch.empty(len(rows) * width, dtype=dtype)
            for number, line in enumerate(flat.view(len(rows), width)):
                self.read_into(entry, (start + number * pitch) * itemsize, line)
            pitch = width
        return flat.as_strided((len(rows), len(columns)), (pitch, columns.step))

    def _read(self, entry: Entry, start: int, count: int) -> torch.Tensor:
        """Elements of an entry, in fresh memory."""
        dtype = entry.torch_dtype
        first, nbytes = start * dtype.itemsize, count * dtype.itemsize
        if self._direct is not None and (entry.offset + first) % dtype.itemsize == 0:
            with _named(entry):
                found = self._direct.read(entry.file.path, entry.offset + first, nbytes)
            if found is not None:
                with self._lock:
                    self.data_bytes_read += nbytes
                return found.view(dtype)
        flat = torch.empty(count, dtype=dtype)
        self.read_into(entry, first, flat)
        return flat

    def read_into(self, entry: Entry, start: int, out: torch.Tensor) -> None:
        """Fill a contiguous tensor of any dtype with the bytes of an entry from its byte ``start`` on.

        InvalidModelError when the file has become shorter, or cannot be read any more.
        """
        target = out.view(-1).view(torch.uint8).numpy().data
        if start < 0 or start + len(target) > entry.length:
            raise IndexError(f"bytes {start} to {start + len(target)} of {entry}, which has {entry.length}")
        done = 0
        with _named(entry), self._pool.open(entry.file.path) as descriptor:
            while done < len(target):
                count = os.preadv(descriptor, [target[done:]], entry.offset + start + done)
                if count == 0:
                    raise InvalidModelError(
                        "a weight file has become shorter since it was opened",
                        required=f"{entry.file.size} bytes",
                        met=entry.offset + start + done,
                        where=f"{entry.file.path}, tensor {entry.name}",
                    )
                done += count
        with self._lock:
            self.data_bytes_read += done

    def count_nan(self, entry: Entry, count: int) -> None:
        """Add to ``nan_codes``."""
        if count:
            with self._lock:
                self.nan_codes[entry.name] += count

    def close(self) -> None:
        """Close the descriptors; a later read opens them again."""
        self._pool.close()
        if self._direct is not None:
            self._direct.close()


@contextmanager
def _named(entry: Entry) -> Iterator[None]:
    """An error of the disk, told as one of this entry."""
    try:
        yield
    except OSError as error:
        raise InvalidModelError(
            f"cannot read weights: {error}", where=f"{entry.file.path}, tensor {entry.name}"
        ) from error
