"""Names that no backend answers to, and backends that do not answer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from porting.errors import BackendError, UsageError


class UnknownBackendError(UsageError):
    """A backend name that nobody registered."""


class UnknownToolkitError(UsageError):
    """A toolkit version that a backend does not know."""


class UnknownSurfaceError(UsageError):
    """A surface that a backend does not have."""


class UnknownSchemeError(UsageError):
    """A quantization scheme that a surface does not take."""


class UnknownDtypeError(UsageError):
    """A floating type that a surface does not compute in."""


class DuplicateBackendError(UsageError):
    """One backend name, registered by two distributions."""


class BrokenBackendError(BackendError):
    """A registered backend that fails to load."""


def did_you_mean(met: str, known: Iterable[str]) -> str | None:
    """A question with the nearest known name, or None."""
    near = difflib.get_close_matches(met.lower(), sorted(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else None


def listed(known: Iterable[str]) -> str:
    """The known names, for an error."""
    return ", ".join(sorted(known)) or "none"
