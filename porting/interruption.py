"""Ctrl-C and a polite kill: what they call, and the exit code that says so. Imports as little as there is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

INTERRUPTED = 130


def on_interrupt(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call ``handler`` for SIGINT and SIGTERM, but for one that whoever started us wants ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave(signum: int, frame: FrameType | None) -> None:
    """A handler for the time before there is anything to clean up: end at once."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
