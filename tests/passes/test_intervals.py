"""Interval arithmetic holds every value that the numbers inside can give."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting_passes.intervals import (
    ANY,
    MAYBE,
    Interval,
    Missing,
    arithmetic,
    conjunction,
    disjunction,
    equal,
    less,
    negation,
)

_BOUNDS = st.tuples(st.integers(-20, 20), st.integers(0, 6)).map(lambda t: (t[0], t[0] + t[1]))


def _as_value(bounds: tuple[int, int]) -> Any:
    return Interval(*bounds).points()


@pytest.mark.parametrize("name", ["+", "-", "*", "//", "%", "min", "max", "roundup"])
@given(a=_BOUNDS, b=_BOUNDS)
def test_results_are_enclosed(name: str, a: tuple[int, int], b: tuple[int, int]) -> None:
    found = arithmetic(name, _as_value(a), _as_value(b))
    points = itertools.product(range(a[0], a[1] + 1), range(b[0], b[1] + 1))
    exact = [arithmetic(name, x, y) for x, y in points]
    if isinstance(found, Missing):
        assert all(isinstance(value, Missing) for value in exact)
    elif isinstance(found, Interval) and found != ANY:
        assert not any(isinstance(value, Missing) for value in exact)
        assert all(found.lo <= value <= found.hi for value in exact)
    elif found != ANY:
        assert set(exact) == {found}


def test_round_up() -> None:
    assert [arithmetic("roundup", n, 32) for n in (0, 1, 32, 33)] == [0, 32, 32, 64]
    assert isinstance(arithmetic("roundup", 5, 0), Missing)


def test_three_valued_logic() -> None:
    missing = Missing("x")
    assert conjunction([True, missing, MAYBE]) is MAYBE
    assert conjunction([True, missing]) is missing
    assert conjunction([missing, False]) is False
    assert disjunction([missing, MAYBE, True]) is True
    assert negation(MAYBE) is MAYBE


def test_comparisons() -> None:
    assert equal(Interval(1, 3), 4) is False
    assert equal(Interval(1, 3), 3) is MAYBE
    assert equal([Interval(1, 3), 2], [5, 2]) is False
    assert equal("a", Interval(1, 3)) is False
    assert less(Interval(1, 3), 4, or_equal=False) is True
    assert less(Interval(1, 3), 1, or_equal=False) is False
    assert less(ANY, 1, or_equal=True) is MAYBE
    assert isinstance(less("a", 1, or_equal=True), Missing)
    same = Missing("n", symbol="n")
    assert (less(same, same, or_equal=True), less(same, same, or_equal=False)) == (True, False)
