"""Backends: chip generations as values, found by name. ``get("ascend-910b")``, ``names()``, ``broken()``."""

from porting.backends.backend import Backend, NumericsLine, NumericsTable, Surface, load_backend
from porting.backends.errors import (
    BrokenBackendError,
    DuplicateBackendError,
    UnknownBackendError,
    UnknownDtypeError,
    UnknownSchemeError,
    UnknownSurfaceError,
    UnknownToolkitError,
)
from porting.backends.registry import Broken, Registered, broken, get, names, registered, split

__all__ = [
    "Backend",
    "Broken",
    "BrokenBackendError",
    "DuplicateBackendError",
    "NumericsLine",
    "NumericsTable",
    "Registered",
    "Surface",
    "UnknownBackendError",
    "UnknownDtypeError",
    "UnknownSchemeError",
    "UnknownSurfaceError",
    "UnknownToolkitError",
    "broken",
    "get",
    "load_backend",
    "names",
    "registered",
    "split",
]
