"""Where a value comes from, in the user's own names.

Kept in ``value.meta`` (onnx_ir does not serialize it); ``provenance.jsonl`` is its written form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

_KEY = "porting.provenance"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """sources: names of the source values that this value stands for, in order of first use.

    equal: this value *is* ``sources[0]`` up to rounding (same shape and meaning), so the two can be compared.
    rules: the rewrites that touched it, oldest first. module, class_name, file, line: the user's code, where known.
    """

    sources: tuple[str, ...] = ()
    equal: bool = False
    rules: tuple[str, ...] = ()
    module: str | None = None
    class_name: str | None = None
    file: str | None = None
    line: int | None = None


def of(value: ir.Value) -> Provenance:
    """The provenance of a value; an empty one when nothing is known."""
    found: Provenance = value.meta.get(_KEY, Provenance())
    return found


def set_(value: ir.Value, provenance: Provenance) -> None:
    """Record the provenance of a value."""
    value.meta[_KEY] = provenance


def inherit(new: ir.Value, old: Iterable[ir.Value], rule: str, *, equal: bool = False) -> None:
    """``new`` was made by ``rule`` out of ``old``.

    equal=True: ``new`` replaces the first of ``old`` with the same meaning and shape. The user's place is taken
    from the first of ``old`` that has one; a value made by several rules in turn keeps all of them.
    """
    olds = [of(v) for v in old]
    sources = tuple(dict.fromkeys(s for p in olds for s in p.sources))
    rules = (*(r for p in olds for r in p.rules), rule)
    place = next((p for p in olds if p.module or p.file), Provenance())
    set_(
        new,
        Provenance(
            sources=sources,
            equal=equal and bool(olds) and olds[0].equal,
            rules=tuple(dict.fromkeys(rules)),
            module=place.module,
            class_name=place.class_name,
            file=place.file,
            line=place.line,
        ),
    )


def place(value: ir.Value) -> str:
    """One line for people: module path if known, else the source value's name, with file and line where known."""
    p = of(value)
    name = p.module or (p.sources[0] if p.sources else value.name) or "?"
    code = f" ({p.file}:{p.line})" if p.file and p.line else ""
    return f"{name}{code}"
