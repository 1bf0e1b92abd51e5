"""This machine: every operator that has a meaning, computed exactly."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from porting.backends.backend import Backend, load_backend

if TYPE_CHECKING:
    BACKEND: Backend

_load = functools.cache(load_backend)


def __getattr__(name: str) -> Backend:
    if name == "BACKEND":
        return _load(__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
