"""A file for ``--scheme-map``: patterns of module names, each with a scheme of its own."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from porting.errors import UsageError
from porting.quantization.schemes import schemes


@dataclasses.dataclass(frozen=True)
class MapLine:
    """pattern: of all of a module's name (``fullmatch``). scheme: a word of ``schemes.json``, or ``none``."""

    pattern: re.Pattern[str]
    scheme: str


@dataclasses.dataclass(frozen=True)
class SchemeMap:
    """Lines in their order: the first that matches a module counts. where: the file, for messages."""

    lines: tuple[MapLine, ...] = ()
    where: str = "the scheme map"

    def line(self, module: str) -> MapLine | None:
        """The line of a module, if any."""
        return next((line for line in self.lines if line.pattern.fullmatch(module)), None)


def read_scheme_map(path: Path) -> SchemeMap:
    """The map in a JSON file: ``{"PATTERN": "SCHEME", ...}`` or ``[{"pattern": ..., "scheme": ...}, ...]``.

    Raises UsageError for a file that cannot be read, is of another shape, or has a malformed pattern or unknown scheme.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read a scheme map: {error}", where=path) from error
    return SchemeMap(tuple(_line(pattern, scheme, path) for pattern, scheme in _pairs(document, path)), str(path))


class _Pairs(list[tuple[str, Any]]):
    """The pairs of a JSON object, in their order and with repeated keys."""


def _pairs(document: Any, path: Path) -> list[tuple[Any, Any]]:
    if isinstance(document, _Pairs):
        return list(document)
    if isinstance(document, list) and all(
        isinstance(entry, _Pairs) and sorted(key for key, _ in entry) == ["pattern", "scheme"] for entry in document
    ):
        return [(dict(entry)["pattern"], dict(entry)["scheme"]) for entry in document]
    raise UsageError(
        "not a scheme map",
        required='{"PATTERN": "SCHEME", ...} or [{"pattern": "PATTERN", "scheme": "SCHEME"}, ...]',
        where=path,
    )


def _line(pattern: Any, scheme: Any, path: Path) -> MapLine:
    where = f"{path}, pattern {pattern!r}"
    if not isinstance(pattern, str) or not isinstance(scheme, str):
        raise UsageError("patterns and schemes are text", met=f"{pattern!r}: {scheme!r}", where=path)
    schemes().require(scheme, where)
    try:
        return MapLine(re.compile(pattern), scheme)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"a pattern is no regular expression: {error}", where=where) from error
