"""Is a node something that a surface accepts? Legal, illegal or unknown, with every reason.

A node is judged by the rows of its operator. One row that accepts it makes it legal. Otherwise the row that comes
closest speaks: if its open points are only unknown, the verdict is unknown. Verdicts are kept for (operator, dtypes,
attributes, and of shapes, constants and neighbours what the operator's rows look at), so equal nodes cost one decision.

A composite operator that no row takes as it is, is legal where one of the set's lowerings writes it in nodes that are
all legal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import onnx_ir as ir

from porting_passes.builder import BuildError
from porting_passes.constraints import parse
from porting_passes.decomposition import build
from porting_passes.lowering import expansion, reasons_against_lowering
from porting_passes.node_view import EVERYTHING, is_constant, looks_of, view
from porting_passes.operator_set import LoweringRow, OperatorRow, OperatorSet, qualified
from porting_passes.row_check import Dims, Node, Reason, chip_dtypes, reasons_against
from porting_passes.splice import discard

__all__ = ["Dims", "Illegal", "Legal", "Legality", "Reason", "Unknown", "check", "is_constant"]


@dataclasses.dataclass(frozen=True)
class Legal:
    """row: the row that accepts the node; None where the surface takes operators that no row names.

    lowering: for a composite operator that the surface takes in other nodes only, how it is written in them.
    """

    row: OperatorRow | None = None
    lowering: LoweringRow | None = None


@dataclasses.dataclass(frozen=True)
class Illegal:
    """reasons: all that were found, of the form that comes closest; those that are only unknown come last."""

    reasons: tuple[Reason, ...]


@dataclasses.dataclass(frozen=True)
class Unknown:
    """reasons: what would have to be known."""

    reasons: tuple[Reason, ...]


Legality = Legal | Illegal | Unknown

_VERDICTS: WeakKeyDictionary[OperatorSet, dict[Any, Legality]] = WeakKeyDictionary()


def check(node: ir.Node, operator_set: OperatorSet, opset: int, dims: Dims | None = None) -> Legality:
    """The verdict on one node. opset: the model's ai.onnx version. dims: symbol -> (least, greatest) size.

    A composite operator is judged by the rows that implement it. Bodies of control-flow nodes are not entered.
    """
    dims = dims or {}
    lowerings = operator_set.lowerings_of(node.domain, node.op_type)
    looks = EVERYTHING if lowerings else looks_of(operator_set.features(node.domain, node.op_type))
    seen = view(node, opset, looks)
    attributes = tuple(sorted((n, tuple(v) if isinstance(v, list) else v) for n, v in seen.attributes.items()))
    key = (
        *(seen.domain, seen.op_type, seen.form, opset, seen.inputs, seen.outputs, attributes),
        tuple(sorted(dims.items())) if "shape" in looks else (),
    )
    known = _VERDICTS.setdefault(operator_set, {})
    verdict = known.get(key)
    if verdict is None:
        if lowerings:
            verdict = _judge_lowerings(node, seen, lowerings, operator_set, dims)
        else:
            verdict = _judge(seen, operator_set, dims)
        known[key] = verdict
    return verdict


def _judge_lowerings(
    node: ir.Node, seen: Node, lowerings: Sequence[LoweringRow], operator_set: OperatorSet, dims: Dims
) -> Legality:
    """The verdict of the lowering that comes closest: first one that the attributes mean, then one that applies."""
    closest: tuple[Any, list[Reason]] | None = None
    for lowering in lowerings:
        own = reasons_against_lowering(lowering, seen, dims)
        reasons = own or reasons_against_nodes(lowering, node, operator_set, seen.opset, dims)
        if not reasons:
            return Legal(lowering=lowering)
        other_form = sum(not parse(reason.allowed).operands for reason in own if "attr(" in reason.allowed)
        distance = (other_form, bool(own), _distance(reasons))
        if closest is None or distance < closest[0]:
            closest = distance, reasons
    return _verdict(closest[1] if closest is not None else [])


def reasons_against_nodes(
    lowering: LoweringRow, node: ir.Node, operator_set: OperatorSet, opset: int, dims: Dims
) -> list[Reason]:
    """Why the surface does not take the nodes that a lowering makes of ``node``."""
    try:
        builder, _ = build(node, expansion(lowering, operator_set, opset), opset)
    except BuildError as error:
        return [Reason(f"lowering {lowering.name}", str(error), "a form at this opset", "; ".join(lowering.source))]
    try:
        verdicts = [(new, check(new, operator_set, opset, dims)) for new in builder.nodes]
    finally:
        discard(builder.nodes)
    return [
        dataclasses.replace(reason, rule=f"{qualified(new.domain, new.op_type)}: {reason.rule}")
        for new, verdict in verdicts
        if not isinstance(verdict, Legal)
        for reason in verdict.reasons
    ]


def _judge(node: Node, operator_set: OperatorSet, dims: Dims) -> Legality:
    name = qualified(node.domain, node.op_type)
    if (refusal := operator_set.refused.get(name)) is not None:
        return Illegal((Reason("operator", name, refusal.reason, refusal.source),))
    absent = chip_dtypes(node, operator_set)
    rows = operator_set.find(node.domain, node.op_type)
    if not rows:
        if operator_set.unlisted != "legal":
            why = operator_set.unlisted_reason
            met = f"{name} ({operator_set.library[name]})" if name in operator_set.library else name
            absent.append(Reason("operator", met, why.reason, why.source, operator_set.unlisted))
        return _verdict(absent) if absent else Legal()
    closest: list[Reason] | None = None
    for row in rows:
        reasons = absent + reasons_against(row, node, operator_set, dims)
        if not reasons:
            return Legal(row)
        if closest is None or _distance(reasons) < _distance(closest):
            closest = reasons
    return _verdict(closest or [])


def _distance(reasons: Sequence[Reason]) -> tuple[int, int]:
    return (sum(reason.verdict == "illegal" for reason in reasons), len(reasons))


def _verdict(reasons: Sequence[Reason]) -> Illegal | Unknown:
    distinct = tuple(sorted(dict.fromkeys(reasons), key=lambda reason: reason.verdict == "unknown"))
    return Illegal(distinct) if distinct[0].verdict == "illegal" else Unknown(distinct)
