"""Is a node something that a surface accepts? Legal, illegal or unknown, with every reason.

A node is judged by the rows of its operator. One row that accepts it makes it legal. Otherwise the row that comes
closest speaks: if its open points are only unknown, the verdict is unknown. Verdicts are kept for (operator, dtypes,
attributes, and of shapes, constants and neighbours what the operator's rows look at), so equal nodes cost one decision.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import onnx_ir as ir

from porting_passes.constraints import Operand, parse
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
    looks = _looks(operator_set, node.domain, node.op_type)
    seen = Node(
        domain=node.domain,
        op_type=node.op_type,
        opset=opset,
        inputs=tuple(_operand(value, looks) for value in node.inputs),
        outputs=tuple(_operand(value, looks) for value in node.outputs),
        attributes={name: _plain(attribute) for name, attribute in node.attributes.items()},
    )
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


def is_constant(value: ir.Value) -> bool:
    """Whether the value is a weight or the output of a Constant node."""
    if value.const_value is not None or value.is_initializer():
        return True
    producer = value.producer()
    return producer is not None and qualified(producer.domain, producer.op_type) == "Constant"


_FEATURE = {
    **dict.fromkeys(("rank", "dim", "shape", "static"), "shape"),
    **dict.fromkeys(("consumers", "producer"), "neighbours"),
}


@functools.lru_cache(maxsize=4096)
def _looks(operator_set: OperatorSet, domain: str, op_type: str) -> frozenset[str]:
    """What the rows of an operator look at beyond dtypes and attributes: shape, constant, neighbours."""
    return frozenset(
        _FEATURE.get(feature, feature)
        for row in operator_set.find(domain, op_type)
        for limit in row.constraints
        if limit.expression is not None
        for feature in parse(limit.expression).features
    )


def _operand(value: ir.Value | None, looks: frozenset[str]) -> Operand | None:
    if value is None or value.name == "":
        return None
    dtype = value.dtype
    shape: tuple[int | str | None, ...] | None = None
    if "shape" in looks and value.shape is not None:
        shape = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    producer, consumers = "", set[str]()
    if "neighbours" in looks:
        if (maker := value.producer()) is not None:
            producer = qualified(maker.domain, maker.op_type)
        consumers = {qualified(use.node.domain, use.node.op_type) for use in value.uses()}
        if value.is_graph_output():
            consumers.add("")
    return Operand(
        dtype=None if dtype is None or dtype == ir.DataType.UNDEFINED else dtype_name(dtype),
        shape=shape,
        constant="constant" in looks and is_constant(value),
        producer=producer,
        consumers=tuple(sorted(consumers)),
    )


@functools.cache
def dtype_name(dtype: ir.DataType) -> str:
    """The name that operator sets use: ``float32``, ``float64``, ``int8``, ``float8e4m3fn`` ..."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def _plain(attribute: ir.Attr) -> Any:
    """The value as constraints see it. Graphs and tensors count by kind only."""
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if isinstance(attribute.value, (int, float, str)):
        return attribute.value
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return list(attribute.value)
    if attribute.type == ir.AttributeType.TENSOR:
        return f"tensor({dtype_name(attribute.value.dtype)})"
    return attribute.type.name.lower()


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
