"""Integers known only up to a range, and answers known only up to a "maybe".

A constraint over symbolic dimensions is evaluated over boxes of values at once. ``Interval`` is the integers between
two bounds, both included; ``MAYBE`` is an answer that differs inside the box (or that the bounds are too coarse to
tell); ``Missing`` is a value that nothing can tell, with what is missing.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections.abc import Callable, Iterable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Interval:
    """The integers lo..hi; a bound of None is "no bound known"."""

    lo: int | None
    hi: int | None

    def points(self) -> Any:
        """The integer itself when there is only one."""
        return self.lo if self.lo is not None and self.lo == self.hi else self


@dataclasses.dataclass(frozen=True)
class Missing:
    """A value that is not known. ``symbol`` is set for a plain dimension symbol without a range."""

    what: str
    symbol: str | None = None


class _Maybe(enum.Enum):
    MAYBE = "maybe"


MAYBE = _Maybe.MAYBE
ANY = Interval(None, None)
Truth = bool | _Maybe | Missing


def _bounds(value: Any) -> tuple[int, int] | None:
    if isinstance(value, Interval):
        return None if value.lo is None or value.hi is None else (value.lo, value.hi)
    return (value, value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Interval))


def _corners(function: Callable[[int, int], int], a: tuple[int, int], b: tuple[int, int]) -> Any:
    found = [function(x, y) for x in a for y in b]
    return Interval(min(found), max(found)).points()


def _modulo(a: tuple[int, int], b: tuple[int, int]) -> Any:
    if b[0] == b[1]:
        divisor = b[0]
        if a[0] // divisor == a[1] // divisor:
            return Interval(*sorted((a[0] % divisor, a[1] % divisor))).points()
    if b[0] > 0:
        return Interval(0, b[1] - 1).points()
    return Interval(b[0] + 1, 0).points()


def _round_up(a: int, b: int) -> int:
    return -(-a // b) * b


def arithmetic(name: str, a: Any, b: Any) -> Any:
    """``a name b`` for + - * // % min max roundup over integers, intervals and missing values.

    ``roundup(a, b)`` is the smallest multiple of b > 0 that is not below a. Division by zero is Missing.
    """
    for side in (a, b):
        if isinstance(side, Missing):
            return Missing(side.what)
        if not _is_number(side):
            return Missing(f"{side!r} is not a number")
    if not isinstance(a, Interval) and not isinstance(b, Interval):
        if name in ("//", "%") and b == 0:
            return Missing("division by zero")
        if name == "roundup" and b <= 0:
            return Missing(f"no multiple of {b} to round up to")
        return _EXACT[name](a, b)
    x, y = _bounds(a), _bounds(b)
    if x is None or y is None:
        return ANY
    if name == "roundup":
        if y[0] <= 0:
            return ANY if y[1] > 0 else Missing("no multiple to round up to")
        return _corners(_round_up, x, y) if y[0] == y[1] else Interval(x[0], x[1] + y[1] - 1)
    if name in ("//", "%"):
        if y[0] <= 0 <= y[1]:
            return ANY if y[0] != y[1] else Missing("division by zero")
        if name == "%":
            return _modulo(x, y)
    return _corners(_EXACT[name], x, y)


_EXACT: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "min": min,
    "max": max,
    "roundup": _round_up,
}


def conjunction(parts: Iterable[Truth]) -> Truth:
    """Three-valued "and": a False decides, then a maybe, then what is missing."""
    missing: Missing | None = None
    maybe = False
    for part in parts:
        if part is False:
            return False
        if part is MAYBE:
            maybe = True
        elif isinstance(part, Missing):
            missing = missing or part
    return MAYBE if maybe else missing or True


def negation(part: Truth) -> Truth:
    """Three-valued "not"."""
    return not part if isinstance(part, bool) else part


def disjunction(parts: Iterable[Truth]) -> Truth:
    """Three-valued "or"."""
    return negation(conjunction(negation(p) for p in parts))


def equal(a: Any, b: Any) -> Truth:
    """``a == b``; lists element by element. Two uses of one symbol are equal even without a range."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and conjunction(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Missing) or isinstance(b, Missing):
        if isinstance(a, Missing) and isinstance(b, Missing) and a.symbol and a.symbol == b.symbol:
            return True
        return a if isinstance(a, Missing) else b
    if not isinstance(a, Interval) and not isinstance(b, Interval):
        return bool(a == b)
    if not _is_number(a) or not _is_number(b):
        return False
    x, y = _bounds(a), _bounds(b)
    if x is None or y is None:
        return MAYBE
    return False if x[1] < y[0] or y[1] < x[0] else MAYBE


def less(a: Any, b: Any, *, or_equal: bool) -> Truth:
    """``a < b`` or ``a <= b`` over numbers."""
    if isinstance(a, Missing) and isinstance(b, Missing) and a.symbol and a.symbol == b.symbol:
        return or_equal
    for side in (a, b):
        if isinstance(side, Missing):
            return side
        if not _is_number(side):
            return Missing(f"{side!r} is not a number")
    x, y = _bounds(a), _bounds(b)
    if x is None or y is None:
        return MAYBE
    compare = operator.le if or_equal else operator.lt
    if compare(x[1], y[0]):
        return True
    return MAYBE if compare(x[0], y[1]) else False


def member(item: Any, collection: Any) -> Truth:
    """``item in collection``."""
    if isinstance(collection, Missing):
        return collection
    if not isinstance(collection, (list, tuple)):
        return Missing(f"{collection!r} is not a list")
    return disjunction(equal(item, other) for other in collection)
