"""What can go wrong, and the exit code that says so.

0 done; 1 parity out of budget; 2 bad usage or bad input; 3 illegal for the backend; 4 legality unknown;
5 a backend, toolchain or runner failed.
"""

from __future__ import annotations

from porting_kernels.errors import DtypeError, PortingError, ShapeError, UnsupportedOperatorError

__all__ = [
    "BackendError",
    "DtypeError",
    "ExistingOutputError",
    "IllegalModelError",
    "InvalidInputError",
    "InvalidModelError",
    "OutputBusyError",
    "OutputError",
    "ParityError",
    "PortingError",
    "RunnerError",
    "ShapeError",
    "UnknownLegalityError",
    "UnsupportedOperatorError",
    "UsageError",
]


class UsageError(PortingError):
    """An option or an argument that makes no sense."""


class InvalidModelError(PortingError):
    """A source that is no valid model: unreadable, truncated, cyclic, ill-typed, or with NaN in its weights."""


class InvalidInputError(PortingError):
    """Input data of a wrong name, shape or type, or unreadable."""


class OutputError(PortingError):
    """The output folder cannot be written."""


class ExistingOutputError(OutputError):
    """The output folder exists already."""


class OutputBusyError(OutputError):
    """Another run is writing the same output folder."""


class ParityError(PortingError):
    """The numbers do not hold."""

    exit_code = 1


class IllegalModelError(PortingError):
    """At least one node has no legal form on the backend."""

    exit_code = 3


class UnknownLegalityError(PortingError):
    """At least one node's legality is not known from public facts."""

    exit_code = 4


class BackendError(PortingError):
    """A backend, toolchain or runner failed."""

    exit_code = 5


class RunnerError(BackendError):
    """What runs a port is missing, ended with an error, or gave something else than it promises."""
