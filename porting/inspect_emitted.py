"""Hold an emitted file against the surface's operator set: reads the file, knows nothing of how it was written."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from porting.backends import Surface
from porting.errors import IllegalModelError
from porting_passes.legality import Dims, Illegal, Legal, Unknown, check
from porting_passes.operator_set import qualified


def violations(
    model_file: Path, surface: Surface, allow_unknown: frozenset[str] = frozenset(), *, dims: Dims | None = None
) -> list[str]:
    """What the surface would not take: function bodies (converters), another opset, nodes that are not legal.

    dims: symbol -> (least, greatest) size; without it a limit on a symbol is of unknown legality.
    """
    model = ir.load(model_file)
    found = []
    if surface.kind == "converter" and model.functions:
        found.append(f"function bodies: {', '.join(qualified(i[0], i[1]) for i in model.functions)}")
    opset = model.opset_imports.get("", 1)
    if surface.opset is not None and opset != surface.opset:
        found.append(f"opset {opset}, not {surface.opset}")
    for node in model.graph.all_nodes():
        verdict = check(node, surface.operator_set, opset, dims)
        if isinstance(verdict, Legal) or (isinstance(verdict, Unknown) and node.op_type in allow_unknown):
            continue
        word = "illegal" if isinstance(verdict, Illegal) else "of unknown legality"
        found.append(f"{qualified(node.domain, node.op_type)} {node.name!r} is {word}: {verdict.reasons[0]}")
    return found


def require_accepted(
    model_file: Path, surface: Surface, allow_unknown: frozenset[str] = frozenset(), *, dims: Dims | None = None
) -> None:
    """Raise IllegalModelError when the written file holds anything that the surface does not take."""
    found = violations(model_file, surface, allow_unknown, dims=dims)
    if found:
        raise IllegalModelError(
            f"the emitted {model_file.name} is not what surface {surface.name} takes",
            met="\n           ".join(found[:20]),
            fix="this is a fault of the toolkit: please report it with the model",
        )
