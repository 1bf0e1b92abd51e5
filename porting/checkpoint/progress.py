"""How far a conversion is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

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


class Terminal(Progress):
    """A bar with rate and time left, on standard error."""

    def __init__(self, verb: str) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            speed_estimate_period=120,
        )
        self._task = self._bar.add_task(verb, total=None)

    def begin(self, total: int) -> None:
        """The bytes that there are."""
        self._bar.update(self._task, total=total)

    def add(self, count: int) -> None:
        """So many are written."""
        self._bar.advance(self._task, count)

    def skip(self, count: int) -> None:
        """So many were written already; they do not count for the rate."""
        task = self._bar.tasks[self._task]
        self._bar.update(self._task, total=(task.total or 0) - count)

    def file(self, name: str) -> None:
        """The source file that is read now."""
        self._bar.update(self._task, description=name)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


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
            f"{self._name}  {done / 2**30:.2f} of {self._total / 2**30:.2f} GiB, {rate / 1e6:.0f} MB/s, "
            f"{left:.0f} s left",
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
    return Terminal(verb) if sys.stderr.isatty() else Lines(verb)
