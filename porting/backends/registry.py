"""Which backends there are: entry points of the group ``porting.backends``, in our own package and in others'.

Looking for names imports nothing. A backend is imported when it is asked for. One that fails to load is remembered with
its error and never stands in the way of the others; a name that two distributions register is an error naming both.
"""

from __future__ import annotations

import dataclasses
import functools
from importlib.metadata import EntryPoint, entry_points

from porting.backends.backend import Backend
from porting.backends.errors import (
    BrokenBackendError,
    DuplicateBackendError,
    UnknownBackendError,
    did_you_mean,
    listed,
)

GROUP = "porting.backends"
OWN = "porting"
# The same as in pyproject.toml, so that a source tree that is not installed has its backends too.
BUILT_IN = {
    "ascend-910b": "porting.backends.ascend_910b:BACKEND",
    "cambricon-mlu370": "porting.backends.cambricon_mlu370:BACKEND",
    "cambricon-mlu590": "porting.backends.cambricon_mlu590:BACKEND",
    "reference": "porting.backends.reference:BACKEND",
}


@dataclasses.dataclass(frozen=True)
class Registered:
    """A name with the distribution that registers it; nothing is imported yet."""

    name: str
    package: str
    version: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.package} {self.version}".rstrip()


@dataclasses.dataclass(frozen=True)
class Broken:
    """A registered backend that cannot be used, and why."""

    name: str
    package: str
    error: str


@functools.cache
def _found() -> dict[str, tuple[Registered, ...]]:
    found = {name: (_built_in(name, value),) for name, value in BUILT_IN.items()}
    for entry in entry_points(group=GROUP):
        package = entry.dist.name if entry.dist is not None else "?"
        if package == OWN and BUILT_IN.get(entry.name) == entry.value:
            continue
        version = entry.dist.version if entry.dist is not None else ""
        found[entry.name] = (*found.get(entry.name, ()), Registered(entry.name, package, version, entry))
    return dict(sorted(found.items()))


def _built_in(name: str, value: str) -> Registered:
    from porting import __version__

    return Registered(name, OWN, __version__, EntryPoint(name=name, value=value, group=GROUP))


def registered() -> list[Registered]:
    """Every registration, by name; two of one name where two distributions claim it. Imports nothing."""
    return [entry for claims in _found().values() for entry in claims]


def names() -> list[str]:
    """The names that ``get`` answers to, loadable or not. Imports nothing."""
    return list(_found())


def split(specification: str) -> tuple[str, str | None]:
    """``NAME[@TOOLKIT]`` -> name, toolkit or None."""
    name, _, toolkit = specification.partition("@")
    return name, toolkit or None


@functools.cache
def get(specification: str) -> Backend:
    """The backend ``NAME`` or ``NAME@TOOLKIT``.

    UnknownBackendError lists the known names; DuplicateBackendError names the two distributions; BrokenBackendError
    carries what went wrong while loading; UnknownToolkitError lists the toolkit versions.
    """
    name, toolkit = split(specification)
    if name not in _found():
        raise _unknown(name)
    backend, failure = _load(name)
    if backend is None:
        first, *others = _found()[name]
        if others:
            raise DuplicateBackendError(
                f"backend {name!r} is registered twice",
                met=" and ".join(map(str, (first, *others))),
                fix="uninstall one of them",
            )
        raise BrokenBackendError(f"backend {name!r} of {first} does not load", met=failure, fix="run `porting doctor`")
    return backend.at(toolkit)


@functools.cache
def _load(name: str) -> tuple[Backend | None, str]:
    """The backend, or None and why not."""
    first, *others = _found()[name]
    if others:
        return None, "registered by " + " and by ".join(map(str, (first, *others)))
    try:
        backend = first.entry_point.load()
    except Exception as error:  # whatever a plug-in raises must not stop the others
        return None, f"{type(error).__name__}: {error}"
    if not isinstance(backend, Backend):
        return None, f"{first.entry_point.value} is {type(backend).__name__}, not a porting.backends.Backend"
    if backend.name != name:
        return None, f"{first.entry_point.value} calls itself {backend.name!r}"
    return backend, ""


def broken() -> list[Broken]:
    """Every registered backend that cannot be used. Loads all of them."""
    found = []
    for name, claims in _found().items():
        backend, failure = _load(name)
        if backend is None:
            found.append(Broken(name, " and ".join(map(str, claims)), failure))
    return found


def _unknown(name: str) -> UnknownBackendError:
    failed = broken()
    hints = [hint for hint in (did_you_mean(name, names()),) if hint]
    if failed:
        shown = "; ".join(f"{entry.name} of {entry.package} ({entry.error})" for entry in failed)
        hints.append(f"{len(failed)} failed to load: {shown}; run `porting doctor`")
    return UnknownBackendError(
        f"no backend {name!r}",
        required=listed(names()),
        met=name,
        fix=" ".join(hints) or "`porting backends` lists them",
    )
