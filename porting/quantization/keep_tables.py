"""Which linear layers stay in float, by model family and runtime, and why: ``keep_tables.json``."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from importlib.resources import files

ANY = "*"


@dataclasses.dataclass(frozen=True)
class KeepRow:
    """One line. pattern: of all of a module's name. fixed: no scheme map can quantize it either.

    linear: whether runtimes have a linear layer there; not of tables, normalizations and the head.
    """

    families: frozenset[str]
    runtimes: frozenset[str]
    pattern: re.Pattern[str]
    fixed: bool
    reason: str
    source: str
    linear: bool = True

    def fits(self, family: str, runtime: str) -> bool:
        """Whether the line is of this family (``model_type`` of config.json) and this runtime."""
        return bool(self.families & {family, ANY}) and bool(self.runtimes & {runtime, ANY})


@functools.cache
def rows() -> tuple[KeepRow, ...]:
    """The whole table, read once."""
    document = json.loads(files(__package__).joinpath("keep_tables.json").read_text(encoding="utf-8"))
    return tuple(
        KeepRow(
            frozenset(row["families"]),
            frozenset(row["runtimes"]),
            re.compile(row["pattern"]),
            row["fixed"],
            row["reason"],
            row["source"],
            row.get("linear", True),
        )
        for row in document["rows"]
    )


@functools.cache
def table(family: str, runtime: str) -> tuple[KeepRow, ...]:
    """The lines for a family and a runtime; for a module the first that matches counts.

    A family without lines of its own has the general ones. runtime: name of a surface, ``torch_npu`` for example.
    """
    return tuple(row for row in rows() if row.fits(family, runtime))


def kept(module: str, family: str, runtime: str) -> KeepRow | None:
    """The line by which a module stays in float, if any."""
    return next((row for row in table(family, runtime) if row.pattern.fullmatch(module)), None)
