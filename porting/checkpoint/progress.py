"""How far a conversion is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from porting.checkpoint.size_text import size_text

_SECONDS = 10.0


class Progress:
    """Counts bytes of the source. As a context: whatever is shown, is gone after it. Threads may call it."""

    def begin(self, total: int) -> None:
        """The bytes that there are."""

    def add(self, count: int) -> None:
        """So many are written, in all formats."""

    def skip(self, count: int) -> None:
        """So many were written by an earlier run."""

    def file(self, name: str) -> None:
        """The source file that is read now."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Silent(Progress):
    """Says nothing."""


class Lines(Progress):
    """A line every ten seconds, and one at the end, on standard error."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._lock = threading.Lock()
        self._start = self._said = time.monotonic()
        self._done = self._skipped = self._total = 0
        self._name = ""

    def begin(self, total: int) -> None:
        """The bytes that there are."""
        self._total = total

    def add(self, count: int) -> None:
        """So many are written."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._said >= _SECONDS:
                self._said = now
                self._say(now)

    def skip(self, count: int) -> None:
        """So many were written already."""
        self._skipped += count

    def file(self, name: str) -> None:
        """The source file that is read now."""
        self._name = name

    def _say(self, now: float) -> None:
        rate = self._done / max(now - self._start, 1e-3)
        left = max(0, self._total - self._skipped - self._done) / max(rate, 1.0)
        done = self._skipped + self._done
        print(
            f"{self._name}  {size_text(done)} of {size_text(self._total)}, {rate / 1e6:.0f} MB/s, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._name = self._verb
            self._say(time.monotonic())


def for_terminal(verb: str) -> Progress:
    """A bar where standard error is a terminal, lines elsewhere. verb: what is done, in one word."""
    if not sys.stderr.isatty():
        return Lines(verb)
    from porting.checkpoint.progress_bar import Terminal

    return Terminal(verb)
