"""HTML and SVG elements that escape whatever is not markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = frozenset({"br", "col", "hr", "img", "input", "meta"})


class Markup(str):
    """Text that is markup: it is not escaped again."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """``<name attributes>children</name>``.

    Children are escaped unless they are Markup; None is left out. Attribute ``class_`` is written ``class``, an
    underscore becomes a hyphen; None and False are left out, True is written without a value.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = "viewBox" if key == "view_box" else key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(written)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """The parts as one piece of markup; text is escaped, None is left out."""
    return Markup(separator.join(_markup(part) for part in parts if part is not None))


def _markup(part: object) -> str:
    return part if isinstance(part, Markup) else html.escape(str(part))
