"""How far a conversion is, as a bar."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from porting.checkpoint.progress import Progress


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
