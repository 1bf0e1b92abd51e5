"""The constraint language: what it takes, and that ranges of symbols are decided like trying every value."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_passes.constraints import Answer, ConstraintError, Operand, Subject, parse
from porting_passes.intervals import Missing

SUBJECT = Subject(
    operands={
        "X": Operand("float16", ("n", 3, "n", 224), producer="AscendQuant"),
        "W": Operand("int8", (8, 3, 3, 3), constant=True),
        "B": None,
        "Y": Operand(None, None, consumers=("", "Relu")),
    },
    attributes={"group": 1, "auto_pad": "VALID", "pads": [0, 0, 1, 1], "alpha": 0.5},
    opset=18,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("rank(X) == 4", True),
        ("rank(X) in [3, 5]", False),
        ("dim(W, 0) % 4 == 0 and dim(W, -1) == 3", True),
        ("roundup(dim(X, 3), 32) == 224", True),
        ("roundup(dim(W, 0) + 1, 8) * 2 <= 32", True),
        ("min(dim(W, 0), 4) + max(1, 2, 3) == 7", True),
        ("shape(W) == [8, 3, 3, 3]", True),
        ("shape(W) == [8, 3, 3]", False),
        ("static(W)", True),
        ("static(X)", False),
        ("dtype(X) in ['float16', 'bfloat16']", True),
        ("not present(B) or rank(B) == 1", True),
        ("present(B) and rank(B) == 1", False),
        ("constant(W) and not constant(X)", True),
        ("producer(X) == 'AscendQuant'", True),
        ("consumers(Y) == ['', 'Relu']", True),
        ("attr('auto_pad') in ['NOTSET', 'VALID']", True),
        ("attr('pads') == [0, 0, 1, 1]", True),
        ("attr('absent') == None", True),
        ("attr('alpha') == 0.5 and -attr('alpha') < 0", True),
        ("8 <= opset() <= 18", True),
        ("dim(X, 0) == dim(X, 2)", True),  # one symbol, even without a range
        ("dim(X, 0) < dim(X, 2)", False),
        ("dim(X, 0) % 2 == 0", None),
        ("rank(Y) == 4", None),
        ("dtype(Y) == 'float16'", None),
        ("rank(B) == 1", None),
        ("dim(W, 9) == 1", None),
        ("attr('absent') < 3", None),
        ("dim(W, 0) // (attr('group') - 1) == 1", None),
        ("rank(X) == 5 and dim(X, 0) == 1", False),  # a false part decides, whatever is missing
        ("rank(X) == 4 or dim(X, 0) == 1", True),
    ],
)
def test_expressions(text: str, holds: bool | None) -> None:
    assert parse(text).decide(SUBJECT).holds is holds


@pytest.mark.parametrize(
    "text",
    ["rank(X) ==", "x.y", "__import__('os')", "rank('X')", "dim(X)", "dim(X, rank(X))", "attr(name)", "X", "lambda: 1",
     "[d for d in shape(X)]", "rank(X) ** 2 == 16", "rank(X) is 4", "shape(X)[0] == 1", "min(1) == 1", "{1: 2} == 3",
     "roundup(1, 2, 3) == 4", "opset(X) == 3", "rank(X=1)",
     "attr('a') and True", "rank(X) == 1 or dim(X, 0)", "not attr('a')", "not (rank(X) or static(X))", "1 or static(X)",
     "dtype(X) and static(X)"],
)  # fmt: skip
def test_what_is_not_in_the_language_is_refused(text: str) -> None:
    with pytest.raises(ConstraintError):
        parse(text)


def test_a_value_that_is_no_condition_is_refused() -> None:
    with pytest.raises(ConstraintError, match="not a condition"):
        parse("rank(X) + 1").decide(SUBJECT)


def test_the_answer_shows_what_was_met() -> None:
    answer = parse("rank(X) == 5 or attr('auto_pad') == 'SAME_UPPER'").decide(SUBJECT)
    assert answer == Answer(False, "rank(X) = 4, attr('auto_pad') = 'VALID'")


def test_the_first_failing_value_of_a_range() -> None:
    assert parse("dim(X, 0) % 7 != 5").decide(SUBJECT, {"n": (1, 64)}) == Answer(False, "n = 5; dim(X, 0) = 5")


def test_a_huge_range_is_decided_without_trying_every_value() -> None:
    assert parse("dim(X, 0) * 4 <= 4000000").decide(SUBJECT, {"n": (1, 1_000_000)}).holds is True
    answer = parse("dim(X, 0) * 4 <= 4000").decide(SUBJECT, {"n": (1, 1_000_000)})
    assert answer.met == "n = 1001; dim(X, 0) = 1001"


def test_what_cannot_be_decided_in_time_is_unknown() -> None:
    answer = parse("(dim(X, 0) * dim(X, 0)) % 7 != 3").decide(SUBJECT, {"n": (1, 10_000_000)})  # 3 is no square mod 7
    assert answer.holds is None
    assert "not decided" in answer.met


_NUMBER = st.deferred(
    lambda: st.one_of(
        st.integers(-3, 12).map(str),
        st.sampled_from(["dim(A, 0)", "dim(A, 1)", "dim(A, 2)"]),
        st.tuples(_NUMBER, st.sampled_from(["+", "-", "*", "//", "%"]), _NUMBER).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        st.tuples(st.sampled_from(["min", "max", "roundup"]), _NUMBER, _NUMBER).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
    )
)
_CONDITION = st.deferred(
    lambda: st.one_of(
        st.tuples(_NUMBER, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), _NUMBER).map(" ".join),
        st.tuples(_NUMBER, st.lists(_NUMBER, min_size=1, max_size=3)).map(lambda t: f"{t[0]} in [{', '.join(t[1])}]"),
        st.tuples(_CONDITION, st.sampled_from(["and", "or"]), _CONDITION).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        _CONDITION.map(lambda text: f"not ({text})"),
    )
)
_RANGE = st.tuples(st.integers(0, 9), st.integers(0, 5)).map(lambda t: (t[0], t[0] + t[1]))


@settings(max_examples=400, deadline=None)
@given(text=_CONDITION, a=_RANGE, b=_RANGE)
def test_ranges_are_decided_like_every_value(text: str, a: tuple[int, int], b: tuple[int, int]) -> None:
    """Brute force: one value at a time, each an expression over numbers only."""
    expression = parse(text)
    points = itertools.product(range(a[0], a[1] + 1), range(b[0], b[1] + 1))
    one_by_one = {(m, n): expression.decide(Subject({"A": Operand("int8", (m, n, 6))})).holds for m, n in points}
    answer = expression.decide(Subject({"A": Operand("int8", ("m", "n", 6))}), {"m": a, "n": b})
    if False in one_by_one.values():
        assert answer.holds is False
        first = min(point for point, holds in one_by_one.items() if holds is False)
        for symbol, value in zip("mn", first, strict=True):
            named = dict(part.split(" = ") for part in answer.met.split("; ")[0].split(", ") if part[1:4] == " = ")
            assert named.get(symbol, str(value)) == str(value)
    elif None in one_by_one.values():
        assert answer.holds is None
    else:
        assert answer.holds is True


def test_missing_says_what_is_missing() -> None:
    answer = parse("dim(X, 0) == 4").decide(SUBJECT)
    assert answer == Answer(None, "dimension 0 of X is the symbol 'n' without a range")
    assert Missing("x").symbol is None
