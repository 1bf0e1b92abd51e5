"""Values of the ported model that can be compared with a value of the source.

An anchor is a ported value whose provenance says ``equal``: it has shape and meaning of its first source value. The
provenance comes from the values themselves right after porting, or from ``provenance.jsonl`` when a port is read back.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porting.errors import OutputError
from porting_passes import provenance
from porting_passes.provenance import Provenance


@dataclasses.dataclass(frozen=True)
class Anchor:
    """value: name in the ported model. source: name in the source model. node, op_type: what computes the source.

    ported_op_type: what computes the ported value. For a graph input of the source, node and op_type are None.
    """

    value: str
    source: str
    node: str | None
    op_type: str | None
    ported_op_type: str
    origin: Provenance

    @property
    def place(self) -> str:
        """Module path with file and line, or what there is of them, or the source node: the user's own words for it."""
        opened = f"{self.origin.file}:{self.origin.line}" if self.origin.file and self.origin.line else None
        if self.origin.module and opened:
            return f"{self.origin.module} ({opened})"
        return self.origin.module or opened or self.node or self.source


def of_model(model: ir.Model) -> dict[str, Provenance]:
    """Provenance by value name, as the passes left it on the values of the main graph."""
    return {value.name: provenance.of(value) for value in _values(model) if value.name}


def find(source: ir.Model, ported: ir.Model, origins: Mapping[str, Provenance]) -> list[Anchor]:
    """The anchors, in the order in which the ported model computes them.

    Where several ported values stand for one source value (a cast behind it), the first is the anchor. Source values
    that are initializers or constants are no anchors.
    """
    producers = {v.name: v.producer() for v in _values(source) if v.name}
    inputs = {v.name for v in source.graph.inputs}
    found: dict[str, Anchor] = {}
    for node in ported.graph:
        for value in node.outputs:
            origin = origins.get(value.name or "")
            if origin is None or not origin.equal or not origin.sources:
                continue
            name = origin.sources[0]
            producer = producers.get(name)
            known = producer is not None or name in inputs
            if not known or name in found or (producer is not None and producer.op_type == "Constant"):
                continue
            found[name] = Anchor(
                value=value.name or "",
                source=name,
                node=None if producer is None else producer.name or None,
                op_type=None if producer is None else producer.op_type,
                ported_op_type=node.op_type,
                origin=origin,
            )
    return list(found.values())


def lines(model: ir.Model) -> Iterator[dict[str, Any]]:
    """The lines of ``provenance.jsonl``: one a computed value of the main graph, in the order of the graph."""
    for node in model.graph:
        for value in node.outputs:
            if value.name:
                yield _line(value.name, provenance.of(value))


def write(model: ir.Model, path: Path) -> None:
    """Write ``provenance.jsonl``."""
    text = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines(model))
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> dict[str, Provenance]:
    """Provenance by value name from ``provenance.jsonl``. OutputError, with the line, for one that is damaged."""
    result = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            result[line["value"]] = Provenance(
                sources=tuple(line["sources"]),
                equal=line["equal"],
                rules=tuple(line["rules"]),
                module=line["module"],
                class_name=line["class"],
                file=line["file"],
                line=line["line"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError("a damaged line of provenance", met=str(error), where=f"{path}:{number}") from error
    return result


def _line(name: str, origin: Provenance) -> dict[str, Any]:
    return {
        "value": name,
        "sources": list(origin.sources),
        "equal": origin.equal,
        "rules": list(origin.rules),
        "module": origin.module,
        "class": origin.class_name,
        "file": origin.file,
        "line": origin.line,
    }


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    for node in model.graph:
        yield from node.outputs
