"""A weight file while it is written: bytes in any order, a digest, and a name that appears when all is on the disk."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

PARTIAL = ".partial"
_FLUSH = 64 << 20
"""Bytes after which writing to the disk is begun, so that the last wait is short."""
_HELD = 32 << 20
"""Bytes that may wait for their turn, so that digest and disk see the file from its begin to its end."""
_READ = 4 << 20


class Sink(Protocol):
    """Where the bytes of a file go."""

    def put(self, offset: int, data: memoryview) -> None:
        """Take bytes; no byte twice."""

    def finish(self) -> str:
        """The file is complete: make it last. Returns its digest."""

    def abandon(self) -> None:
        """Leave nothing behind."""


class NullSink:
    """Takes the digest that the file would have, and writes nothing."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._end = 0
        self._waiting: dict[int, memoryview] = {}
        self._held = 0
        self._scattered = False

    def put(self, offset: int, data: memoryview) -> None:
        """Take bytes, at once or when their turn has come."""
        if self._scattered:
            self._write(offset, data)
        elif offset != self._end:
            self._hold(offset, data)
        else:
            self._append(data)
            while (waiting := self._waiting.pop(self._end, None)) is not None:
                self._held -= len(waiting)
                self._append(waiting)

    def _append(self, data: memoryview) -> None:
        self._write(self._end, data)
        self._digest.update(data)
        self._end += len(data)

    def _hold(self, offset: int, data: memoryview) -> None:
        self._waiting[offset] = data
        self._held += len(data)
        if self._held > _HELD:
            # The digest is then taken from the finished file.
            self._scattered = True
            for begin, waiting in self._waiting.items():
                self._write(begin, waiting)
            self._waiting.clear()

    def _write(self, offset: int, data: memoryview) -> None:
        """Nowhere."""

    def finish(self) -> str:
        """The digest; of a file whose types had to be sorted there is none without the file."""
        return "not taken" if self._scattered else f"sha256:{self._digest.hexdigest()}"

    def abandon(self) -> None:
        """Nothing to do."""


class ShardFile(NullSink):
    """``path``, under another name until ``finish``: one that does not end in .safetensors, which loaders look for.

    flusher: a thread that brings to the disk what is written, beside the writing. Raises OSError as the disk does.
    """

    def __init__(self, path: Path, flusher: ThreadPoolExecutor) -> None:
        super().__init__()
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._flusher = flusher
        self._flush: Future[Any] | None = None
        self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._unflushed = 0

    def _write(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._descriptor, data[done:], offset + done)
        self._unflushed += done
        if self._unflushed >= _FLUSH and (self._flush is None or self._flush.done()):
            if self._flush is not None:
                self._flush.result()
            self._unflushed = 0
            self._flush = self._flusher.submit(os.fdatasync, self._descriptor)

    def finish(self) -> str:
        """Bring all to the disk, give the file its name, and bring that to the disk."""
        if self._flush is not None:
            self._flush.result()
        os.fsync(self._descriptor)
        if self._scattered:
            self._digest = _digest_of(self._descriptor)
        # What was written is not read again soon: the page cache is better used for the source.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(self._descriptor)
        self._descriptor = -1
        os.rename(self._partial, self._path)
        sync_folder(self._path.parent)
        return f"sha256:{self._digest.hexdigest()}"

    def abandon(self) -> None:
        """Remove what was written."""
        if self._descriptor >= 0:
            if self._flush is not None:
                self._flush.exception()
            os.close(self._descriptor)
            self._descriptor = -1
        self._partial.unlink(missing_ok=True)


def _digest_of(descriptor: int) -> Any:
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _READ, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, text: str) -> None:
    """A small file, whole or not at all, and on the disk."""
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(partial, path)
    sync_folder(path.parent)
