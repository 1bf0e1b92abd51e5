"""A bounded number of open files, shared by threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DescriptorPool:
    """Descriptors by path, at most ``limit`` at a time; the one that was idle longest is closed for a new one.

    A thread that finds all of them in use waits. Closing the pool closes the idle ones at once and the others when
    they come back. flags: for ``os.open``, beyond reading.
    """

    def __init__(self, limit: int = 64, *, flags: int = 0) -> None:
        self._limit = limit
        self._flags = os.O_RDONLY | os.O_CLOEXEC | flags
        self._idle: OrderedDict[Path, int] = OrderedDict()
        self._used: dict[Path, tuple[int, int]] = {}
        self._change = threading.Condition()

    @contextmanager
    def open(self, path: Path) -> Iterator[int]:
        """The descriptor of a file, kept open at least as long as the context. OSError as from ``os.open``."""
        descriptor = self._take(path)
        try:
            yield descriptor
        finally:
            self._give_back(path)

    def _take(self, path: Path) -> int:
        with self._change:
            while path not in self._used and path not in self._idle and len(self._used) >= self._limit:
                self._change.wait()
            if path in self._used:
                descriptor, users = self._used[path]
            else:
                users = 0
                descriptor = self._idle.pop(path, -1)
                if descriptor < 0:
                    while len(self._used) + len(self._idle) >= self._limit:
                        os.close(self._idle.popitem(last=False)[1])
                    descriptor = os.open(path, self._flags)
            self._used[path] = (descriptor, users + 1)
            return descriptor

    def _give_back(self, path: Path) -> None:
        with self._change:
            descriptor, users = self._used.pop(path)
            if users > 1:
                self._used[path] = (descriptor, users - 1)
            else:
                self._idle[path] = descriptor
                self._change.notify_all()

    def close(self) -> None:
        """Close what is idle. The pool can go on being used."""
        with self._change:
            while self._idle:
                os.close(self._idle.popitem()[1])

    def __len__(self) -> int:
        return len(self._used) + len(self._idle)
