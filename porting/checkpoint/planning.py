"""What a conversion would write, how much disk and time it takes, and why: from headers alone."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from porting.checkpoint.codecs import BlockSpec, MxSpec
from porting.checkpoint.conversion import Conversion
from porting.checkpoint.layout import FormatLayout
from porting.checkpoint.treatment import Treatment
from porting.weights.scales import FLOAT8

SCHEMA_VERSION = 1
RATE = 400_000_000
"""Bytes read and written a second where nobody says what the disk does: a cloud volume's usual limit."""
SEARCHED = 90_000_000
"""Weights a second and thread for which int4 scales are searched (measured on a Zen 4 core, groups of 128); absmax
codes are faster than a disk."""


@dataclasses.dataclass(frozen=True)
class Line:
    """Modules that are treated alike. pattern: their names, numbers as ``*``. example: the first of them."""

    pattern: str
    example: str
    scheme: str
    stored: str
    reason: str
    source: str
    tensors: int
    elements: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class FormatPlan:
    """One format. lines: in the order of the source."""

    name: str
    files: int
    tensors: int
    nbytes: int
    lines: tuple[Line, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """tensors, nbytes: of the source, scales included. seconds: at ``rate`` bytes a second, or as fast as int4 goes."""

    source: str
    family: str
    scheme: str
    tensors: int
    float8: int
    files: int
    nbytes: int
    formats: tuple[FormatPlan, ...]
    rate: int
    seconds: float

    @property
    def disk(self) -> int:
        """Bytes that the result takes."""
        return sum(each.nbytes for each in self.formats)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self), "disk": self.disk}


def plan(conversion: Conversion, *, rate: int = RATE, threads: int = 1) -> Plan:
    """Plan a conversion. rate: bytes a second that the disk reads and writes together. Reads no data."""
    source = conversion.source
    planned, searched = [], 0
    for layout in conversion.layouts():
        shards = list(layout.shards())
        planned.append(
            FormatPlan(
                layout.form.name,
                len(shards),
                sum(len(part.made) for shard in shards for part in shard.parts),
                sum(shard.size for shard in shards),
                _lines(layout),
            )
        )
        searched += sum(line.elements for line in planned[-1].lines if line.stored.startswith("int4"))
    entries = source.store.entries.values()
    moved = source.data_bytes + sum(each.nbytes for each in planned)
    return Plan(
        str(source.folder),
        source.family,
        conversion.scheme,
        len(entries),
        sum(entry.dtype in FLOAT8 for entry in entries),
        len(source.shards),
        source.data_bytes,
        tuple(planned),
        rate,
        max(moved / rate, searched / SEARCHED / threads),
    )


def stored_as(treatment: Treatment) -> str:
    """What the weight becomes, in a few words."""
    spec = treatment.spec
    if spec is None:
        return "float"
    if isinstance(spec, BlockSpec):
        return f"{spec.kind} {spec.block[0]} x {spec.block[1]}"
    if isinstance(spec, MxSpec):
        return f"mxfp{spec.bits}"
    scale = "channel" if spec.group is None else f"g{spec.group}"
    return f"int{spec.bits} {scale} {spec.search}"


def _lines(layout: FormatLayout) -> tuple[Line, ...]:
    grouped: dict[tuple[Any, ...], list[str]] = {}
    for name, treatment in layout.treatments.items():
        key = (re.sub(r"\d+", "*", name), treatment.scheme, stored_as(treatment), treatment.reason, treatment.source)
        grouped.setdefault(key, []).append(name)
    lines = []
    for (pattern, scheme, stored, reason, where), names in grouped.items():
        tensors = [layout.source.tensors[name] for name in names]
        elements = sum(tensor.entry.rows * tensor.entry.columns for tensor in tensors)
        nbytes = sum(made.nbytes for tensor in tensors for made in layout.made(tensor))
        lines.append(Line(pattern, names[0], scheme, stored, reason, where, len(names), elements, nbytes))
    return tuple(lines)


def in_float(lines: tuple[Line, ...]) -> dict[tuple[str, str], list[Line]]:
    """What stays in float, by reason and source."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.stored == "float":
            found.setdefault((line.reason, line.source), []).append(line)
    return found
