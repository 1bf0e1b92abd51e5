"""The language of calls: what it reads, and what it refuses."""

from __future__ import annotations

import pytest

from porting_passes.call_text import Call, CallTextError, Converted, Listed, Name, Plain, parse_call


def test_a_call_with_lists_conversions_and_constants() -> None:
    call = parse_call("m.f([x], [transposed(w)], n=-1)")
    assert call == Call(
        "m.f", (Listed((Name("x"),)), Listed((Converted("transposed", Name("w")),))), (("n", Plain(-1)),)
    )
    assert call.names == {"x", "w"}


def test_a_call_inside_a_call() -> None:
    call = parse_call("m.f(x, m.pack(scale), mode='half', bias=None)")
    assert call.positional[1] == Call("m.pack", (Name("scale"),), ())
    assert call.names == {"x", "scale"}


@pytest.mark.parametrize(
    "text",
    ["x", "f(x)", "m.f(x + 1)", "m.f(unknown(x))", "m.f(*x)", "m.f(x)[0]", "m.f(lambda: 0)", "m.f(", "transposed(x)"],
)
def test_what_is_not_in_the_language_is_refused(text: str) -> None:
    with pytest.raises(CallTextError):
        parse_call(text)
