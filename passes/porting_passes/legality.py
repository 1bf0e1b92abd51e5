"""Is a node something that a surface accepts? Legal, illegal or unknown, with every reason.

A node is judged by the rows of its operator. One row that accepts it makes it legal. Otherwise the row that comes
closest speaks: if its open points are only unknown, the verdict is unknown. Verdicts are kept for (operator, dtypes,
attributes, and of shapes, constants and neighbours what the operator's rows look at), so equal nodes cost one decision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import onnx_ir as ir

from porting_passes.node_view import is_constant, looks_of, view
from porting_passes.operator_set import OperatorRow, OperatorSet, qualified
from porting_passes.row_check import Dims, Node, Reason, chip_dtypes, reasons_against

__all__ = ["Dims", "Illegal", "Legal", "Legality", "Reason", "Unknown", "check", "is_constant"]


@dataclasses.dataclass(frozen=True)
class Legal:
    """row: the row that accepts the node; None where the surface takes operators that no row names."""

    row: OperatorRow | None = None


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
    looks = looks_of(operator_set.features(node.domain, node.op_type))
    seen = view(node, opset, looks)
    attributes = tuple(sorted((n, tuple(v) if isinstance(v, list) else v) for n, v in seen.attributes.items()))
    key = (
        *(seen.domain, seen.op_type, opset, seen.inputs, seen.outputs, attributes),
        tuple(sorted(dims.items())) if "shape" in looks else (),
    )
    known = _VERDICTS.setdefault(operator_set, {})
    verdict = known.get(key)
    if verdict is None:
        verdict = known[key] = _judge(seen, operator_set, dims)
    return verdict


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
