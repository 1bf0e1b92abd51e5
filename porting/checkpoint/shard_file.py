"""A weight file while it is written: bytes in any order, a digest, and a name that appears when all is on the disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from porting.weights.direct_read import ALIGNED

PARTIAL = ".partial"
_BUFFER = 8 << 20
_HELD = 32 << 20
"""Bytes that may wait for their turn, so that digest and disk see the file from its begin to its end."""
_READ = 4 << 20


class Sink(Protocol):
    """Where the bytes of a file go."""

    def put(self, offset: int, data: memoryview) -> None:
        """Take bytes; no byte twice."""

    def put_apart(self, offset: int, data: memoryview, run: int, stride: int) -> None:
        """Take runs of ``run`` bytes, the first of them for ``offset``, each other one ``stride`` bytes later."""

    def finish(self) -> str:
        """The file is complete: make it last. Returns its digest, nothing where there is no file."""

    def abandon(self) -> None:
        """Leave nothing behind."""


class NullSink:
    """Lets all bytes go."""

    def put(self, offset: int, data: memoryview) -> None:
        """Nothing to do."""

    def put_apart(self, offset: int, data: memoryview, run: int, stride: int) -> None:
        """Nothing to do."""

    def finish(self) -> str:
        """There is no file."""
        return ""

    def abandon(self) -> None:
        """Nothing to do."""


class ShardFile:
    """``path``, under another name until ``finish``: one that does not end in .safetensors, which loaders look for.

    Bytes go past the page cache where the file system lets them: copying them there costs more than the disk does, and
    takes the room of the source. flusher: a thread that writes beside the digest. Raises OSError as the disk does.
    """

    def __init__(self, path: Path, flusher: ThreadPoolExecutor) -> None:
        self._digest = hashlib.sha256()
        self._end = 0
        self._waiting: dict[int, memoryview] = {}
        self._held = 0
        self._scattered = False
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._flusher = flusher
        self._flush: Future[None] | None = None
        self._file = DirectFile(self._partial)
        self._buffer, self._other = mmap.mmap(-1, _BUFFER), mmap.mmap(-1, _BUFFER)
        self._filled = 0
        self._begin = 0

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

    def put_apart(self, offset: int, data: memoryview, run: int, stride: int) -> None:
        """Take runs with others between them: their turn would come when all of a tensor is there."""
        if not self._scattered:
            self._scatter()
        self._settle()
        for number in range(len(data) // run):
            self._file.write(offset + number * stride, data[number * run : (number + 1) * run])

    def _append(self, data: memoryview) -> None:
        self._write(self._end, data)
        self._digest.update(data)
        self._end += len(data)

    def _hold(self, offset: int, data: memoryview) -> None:
        self._waiting[offset] = data
        self._held += len(data)
        if self._held > _HELD:
            self._scatter()

    def _scatter(self) -> None:
        """Write in whatever order bytes come. The digest is then taken from the finished file."""
        self._scattered = True
        for begin, waiting in self._waiting.items():
            self._write(begin, waiting)
        self._waiting.clear()

    def _write(self, offset: int, data: memoryview) -> None:
        if self._scattered:
            self._settle()
            self._file.write(offset, data)
            return
        done = 0
        while done < len(data):
            count = min(len(data) - done, _BUFFER - self._filled)
            place = np.frombuffer(self._buffer, np.uint8, count, self._filled)
            np.copyto(place, np.frombuffer(data, np.uint8, count, done))  # Lets other threads run, unlike a slice.
            self._filled += count
            done += count
            if self._filled == _BUFFER:
                self._send()

    def _send(self) -> None:
        """Give the buffer to the flusher and go on with the other one, once that is written."""
        if self._flush is not None:
            self._flush.result()
        full, self._buffer, self._other = self._buffer, self._other, self._buffer
        self._flush = self._flusher.submit(self._file.write, self._begin, memoryview(full)[: self._filled])
        self._begin += self._filled
        self._filled = 0

    def _settle(self) -> None:
        """Everything is in the file, and the buffers are empty."""
        if self._filled:
            self._send()
        if self._flush is not None:
            self._flush.result()
            self._flush = None

    def finish(self) -> str:
        """Bring all to the disk, give the file its name, and bring that to the disk."""
        self._settle()
        if self._scattered:
            self._digest = _digest_of(self._partial)
        self._file.close(sync=True)
        os.rename(self._partial, self._path)
        sync_folder(self._path.parent)
        return f"sha256:{self._digest.hexdigest()}"

    def abandon(self) -> None:
        """Remove what was written."""
        if self._flush is not None:
            self._flush.exception()
        self._file.close(sync=False)
        self._partial.unlink(missing_ok=True)


class DirectFile:
    """A new file written in large pieces, past the page cache where they are aligned and the file system can do it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._direct = hasattr(os, "O_DIRECT")
        try:
            self._descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct = False
            self._descriptor = os.open(path, flags, 0o644)

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of it. OSError."""
        done = 0
        if self._direct and offset % ALIGNED == 0:
            whole = len(data) - len(data) % ALIGNED
            try:
                done = os.pwrite(self._descriptor, data[:whole], offset) if whole else 0
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        if self._direct and done < len(data):
            # An odd end, a disk that is nearly full, or one that wants other alignment: from here on as usual.
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            self._direct = False
        while done < len(data):
            done += os.pwrite(self._descriptor, data[done:], offset + done)

    def close(self, *, sync: bool) -> None:
        """Close it, with all of it on the disk if asked. A second time does nothing."""
        if self._descriptor < 0:
            return
        try:
            if sync:
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1


def _digest_of(path: Path) -> Any:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_READ):
            digest.update(chunk)
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
