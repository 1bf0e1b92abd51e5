"""Models that draw random numbers: two runs differ by what they drew, and nothing says if a port is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from porting.parity.verdict import Check

_DRAWING = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def drawing(model: ir.Model) -> list[str]:
    """Names of the nodes that draw, seeded or not: no two engines draw the same numbers from one seed."""
    return [n.name or n.outputs[0].name or "?" for n in model.graph.all_nodes() if _draws(n)]


def _draws(node: ir.Node) -> bool:
    if node.domain or node.op_type != "Dropout":
        return not node.domain and node.op_type in _DRAWING
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return False
    known = ir.convenience.get_const_tensor(training)
    return known is None or bool(known.numpy())


def unjudged(checks: Sequence[Check], nodes: Sequence[str]) -> list[Check]:
    """The checks with no verdict: what holds holds by luck, and what does not may be right all the same."""
    source = f"random numbers of {', '.join(nodes)}"
    return [dataclasses.replace(c, verdict="not_measured", source=source) for c in checks]
