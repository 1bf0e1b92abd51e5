"""Ctrl-C and a polite kill: what they call, and the exit code that says so. Imports as little as there is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

INTERRUPTED = 130
_requests: list[int] = []


def interrupt(signum: int, frame: FrameType | None) -> None:
    """A handler while a command runs: what it has begun is cleaned up on the way out."""
    _requests.append(signum)
    raise KeyboardInterrupt


def requested() -> bool:
    """Whether ``interrupt`` was called: the exception itself may have been turned into another, or swallowed."""
    return bool(_requests)


def raise_if_requested() -> None:
    """Raise KeyboardInterrupt again behind code that may have swallowed it, as torch's tracing does."""
    if _requests:
        raise KeyboardInterrupt


def on_interrupt(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call ``handler`` for SIGINT and SIGTERM, but for one that whoever started us wants ignored. None counts yet."""
    _requests.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def leave(signum: int, frame: FrameType | None) -> None:
    """A handler for the time before there is anything to clean up: end at once."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
