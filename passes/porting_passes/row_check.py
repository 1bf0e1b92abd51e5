"""One row of an operator set held against one node: every limit that the node does not keep."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import onnx

from porting_passes.constraints import Operand, Subject, parse
from porting_passes.operator_set import (
    ConstraintRow,
    OperandRow,
    OperatorRow,
    OperatorSet,
    OperatorSetError,
    Verdict,
    qualified,
)
from porting_passes.schemas import schema

Dims = Mapping[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Reason:
    """rule: what is required of what. met: what was found. allowed: the limit. source: where the limit is written.

    verdict: what this reason alone makes of the node.
    """

    rule: str
    met: str
    allowed: str
    source: str
    verdict: Verdict = "illegal"

    def __str__(self) -> str:
        return f"{self.rule}: {self.met}; allowed: {self.allowed} [source: {self.source}]"


@dataclasses.dataclass(frozen=True)
class Node:
    """A node as rows see it. opset: the model's ai.onnx version. form: the one it names of its operator, or ""."""

    domain: str
    op_type: str
    opset: int
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand | None, ...]
    attributes: Mapping[str, Any]
    form: str = ""


def chip_dtypes(node: Node, operator_set: OperatorSet) -> list[Reason]:
    """Dtypes of the node that the chip does not have, whatever the operator."""
    met = dict.fromkeys(operand.dtype for operand in (*node.inputs, *node.outputs) if operand is not None)
    return [
        Reason("dtype", dtype, operator_set.refused_dtypes[dtype].reason, operator_set.refused_dtypes[dtype].source)
        for dtype in met
        if dtype is not None and dtype in operator_set.refused_dtypes
    ]


def reasons_against(row: OperatorRow, node: Node, operator_set: OperatorSet, dims: Dims) -> list[Reason]:
    """Why the row does not accept the node; empty when it does."""
    source = "; ".join(row.source)
    composite = row.implements == qualified(node.domain, node.op_type)
    reasons: list[Reason] = []
    if node.form and node.form != row.form:
        reasons.append(Reason("form", node.form, row.form, source))
    if not row.opset[0] <= node.opset <= row.opset[1]:
        reasons.append(Reason("opset", str(node.opset), f"{row.opset[0]}..{row.opset[1]}", source))
    operands: dict[str, Operand | None] = {}
    for kind, rows, met in (("input", row.inputs, node.inputs), ("output", row.outputs, node.outputs)):
        if rows is None:
            continue
        places = _places(rows, len(met))
        spare = {row.follow.operand} if composite and row.follow and kind == "input" else set()
        reasons += _surplus(kind, {*places, *spare}, met, source)
        found = [(rows[min(i, len(rows) - 1)], met[p] if p < len(met) else None) for i, p in enumerate(places)]
        for operand_row, operand in found:
            operands.setdefault(operand_row.name, operand)
            if operand is not None and not (composite and operand_row.packer):
                reasons += _dtype(operand_row, operand, operator_set, source)
    reasons += _combination(row, operands, operator_set, source)
    attributes = _attributes(row, node, composite)
    reasons += [
        Reason(f"attribute {a.name}", "absent", "must be given", source)
        for a in row.attributes
        if a.required and attributes.get(a.name) is None
    ]
    for limit in row.constraints:
        if limit.expression is not None and (composite or not limit.composite):
            subject = Subject(operands, node.attributes if limit.composite else attributes, node.opset)
            reasons += _limit(limit, subject, dims)
    return reasons


def _places(rows: tuple[OperandRow, ...], met: int) -> list[int]:
    """The node's position of each operand row; a last variadic row is repeated for all that are left."""
    places = [i if row.operand is None else row.operand for i, row in enumerate(rows)]
    if rows and rows[-1].variadic:
        places += range(len(rows), met)
    return places


def _surplus(kind: str, places: set[int], met: tuple[Operand | None, ...], source: str) -> list[Reason]:
    extra = [str(i) for i, operand in enumerate(met) if operand is not None and i not in places]
    if not extra:
        return []
    return [Reason(f"{kind}s", f"{kind} {', '.join(extra)} given", f"only {sorted(places)} have a place", source)]


def _dtype(row: OperandRow, operand: Operand, operator_set: OperatorSet, source: str) -> list[Reason]:
    if row.dtypes is None:
        return []
    allowed = ", ".join(row.dtypes)
    if operand.dtype is None:
        return [Reason(f"dtype of {row.name}", "not known", allowed, source, "unknown")]
    if _dtypes(operand, operator_set) & set(row.dtypes):
        return []
    return [Reason(f"dtype of {row.name}", operand.dtype, allowed, source)]


def _dtypes(operand: Operand, operator_set: OperatorSet) -> set[str]:
    """The operand's dtype and the one that the surface makes of it."""
    return {d for d in (operand.dtype, operator_set.converted_dtypes.get(operand.dtype or "")) if d is not None}


def _combination(
    row: OperatorRow, operands: Mapping[str, Operand | None], operator_set: OperatorSet, source: str
) -> list[Reason]:
    """The node's dtypes must be one of the row's combinations; an absent operand fits any."""
    if not row.combinations:
        return []
    names = [operand.name for operand in row.operands]
    met = [operands.get(name) for name in names]
    if any(operand is not None and operand.dtype is None for operand in met):
        return []
    fits = [None if operand is None else _dtypes(operand, operator_set) for operand in met]
    for combination in row.combinations:
        if all(fit is None or wanted is None or wanted in fit for wanted, fit in zip(combination, fits, strict=True)):
            return []
    shown = ", ".join(f"{n} {o.dtype}" for n, o in zip(names, met, strict=True) if o is not None)
    return [Reason(f"dtypes of {', '.join(names)}", shown, "; ".join(map(str, row.combinations)), source)]


def _attributes(row: OperatorRow, node: Node, composite: bool) -> dict[str, Any]:
    """The values that count: the row's operator's defaults, then what the node says."""
    found = defaults(row.domain, row.operator, node.opset)
    found |= {a.name: a.default for a in row.attributes if a.default is not None}
    if not composite:
        return found | dict(node.attributes)
    for attribute in row.attributes:
        if attribute.constant is not None:
            found[attribute.name] = attribute.constant
        elif attribute.from_ is not None and attribute.from_ in node.attributes:
            with contextlib.suppress(OperatorSetError):  # a value without a counterpart: the output's dtype tells
                found[attribute.name] = attribute.convert(node.attributes[attribute.from_])
    return found


def defaults(domain: str, op_type: str, opset: int) -> dict[str, Any]:
    """The attribute defaults of an ONNX operator at an opset; empty for an operator that ONNX does not define."""
    found = schema(domain, op_type, opset)
    if found is None:
        return {}
    values = {name: a.default_value for name, a in found.attributes.items() if a.default_value.name}
    return {name: _value(proto) for name, proto in values.items()}


def _value(proto: Any) -> Any:
    """The Python value of an AttributeProto of a schema's default."""
    value = onnx.helper.get_attribute_value(proto)
    return value.decode() if isinstance(value, bytes) else value


def _limit(limit: ConstraintRow, subject: Subject, dims: Dims) -> list[Reason]:
    answer = parse(limit.expression or "").decide(subject, dims)
    if answer.holds:
        return []
    verdict: Verdict = "unknown" if answer.holds is None else limit.verdict
    return [Reason(limit.text, answer.met, limit.expression or "", limit.source, verdict)]
