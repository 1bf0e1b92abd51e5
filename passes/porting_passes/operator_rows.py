"""The rows of an operator set: one accepted form of an operator each, and the ways to write a composite operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from porting_kernels.errors import PortingError

Evidence = Literal["doc", "vendor table", "parser source", "public consumer", "measured", "assumed"]
Verdict = Literal["illegal", "unknown"]
Unlisted = Literal["illegal", "unknown", "legal"]


class OperatorSetError(PortingError):
    """A data file of operators that contradicts itself."""


@dataclasses.dataclass(frozen=True)
class OperandRow:
    """One input or output.

    dtypes: ONNX names in lower case; None: the source states none, so none is refused.
    operand: its position in the composite operator that the row implements, where that differs from its position
    here. packer: the named conversion that makes this operand's stored form from the composite's; ``dtypes`` are those
    of the stored form.
    """

    name: str
    dtypes: tuple[str, ...] | None = None
    optional: bool = False
    variadic: bool = False
    operand: int | None = None
    packer: str | None = None


@dataclasses.dataclass(frozen=True)
class ConstraintRow:
    """A limit. expression: None where the language cannot say it: such a text is shown, never decided.

    verdict: the answer when the limit is not kept; ``unknown`` where the public contract ends there.
    composite: a limit on the composite operator that the row implements, and on its attributes; not on the row's own.
    """

    text: str
    expression: str | None
    source: str
    verdict: Verdict = "illegal"
    composite: bool = False


@dataclasses.dataclass(frozen=True)
class AttributeRow:
    """How an attribute of the row's operator is made from the composite's: taken ``from_`` one of it, or ``constant``.

    type: float, int, string, ints or floats. values: (composite's value, row's value) where the two codes differ.
    default: the value that counts when the node does not give the attribute. required: the node must give it.
    """

    name: str
    type: str
    from_: str | None = None
    constant: Any = None
    values: tuple[tuple[Any, Any], ...] = ()
    default: Any = None
    required: bool = False

    def convert(self, value: Any) -> Any:
        """The row's value for the composite's. Raises OperatorSetError for a value that has no counterpart."""
        if self.values:
            for ours, theirs in self.values:
                if ours == value:
                    return theirs
            allowed = ", ".join(str(ours) for ours, _ in self.values)
            raise OperatorSetError(f"attribute {self.name} has no code for {value!r}", required=allowed, met=value)
        return float(value) if self.type == "float" else value


@dataclasses.dataclass(frozen=True)
class FollowRow:
    """One more node behind the row's own: ``operator`` of the row's output and the composite's input ``operand``.

    Only where that input is present, e.g. the bias of a matrix product whose operator has no place for one.
    """

    operator: str
    operand: int


@dataclasses.dataclass(frozen=True)
class OperatorRow:
    """One accepted form of an operator. opset: versions of ai.onnx at which it is accepted, both included.

    lowers_to: the surface's own operators. since, until: toolkit versions, where they are known.
    body: of an operator that ONNX does not define, its meaning: nodes in ONNX's textual form, in composite operators
    and standard ONNX, over the names of inputs, outputs and attributes. A node names its form as its overload.
    call: of the same, the Python call that computes it (see ``call_text``).
    """

    operator: str
    domain: str
    opset: tuple[int, int]
    inputs: tuple[OperandRow, ...] | None
    outputs: tuple[OperandRow, ...] | None
    source: tuple[str, ...]
    evidence: Evidence
    form: str = ""
    implements: str | None = None
    combinations: tuple[tuple[str | None, ...], ...] = ()
    attributes: tuple[AttributeRow, ...] = ()
    follow: FollowRow | None = None
    constraints: tuple[ConstraintRow, ...] = ()
    since: str | None = None
    until: str | None = None
    lowers_to: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    body: str = ""
    call: str = ""

    @property
    def name(self) -> str:
        """The operator for people, with the row's form where it has one."""
        return qualified(self.domain, self.operator) + (f" ({self.form})" if self.form else "")

    @property
    def operands(self) -> tuple[OperandRow, ...]:
        """Inputs, then outputs."""
        return (self.inputs or ()) + (self.outputs or ())


@dataclasses.dataclass(frozen=True)
class LoweringRow:
    """One way to write a composite operator in the operators of a surface.

    implements: the composite operator. text: nodes in ONNX's textual form that make its outputs of its inputs and
    attributes. attributes: further ones that the text may refer to, made from the composite's own. constraints: on the
    composite operator; every node of the text is judged by the rows besides. tolerance: how far the result may be from
    the composite's, relative to the largest float32 magnitude, with the reason; None where only order and rounding of
    sums differ.
    """

    implements: str
    name: str
    text: str
    source: tuple[str, ...]
    evidence: Evidence
    attributes: tuple[AttributeRow, ...] = ()
    constraints: tuple[ConstraintRow, ...] = ()
    tolerance: tuple[float, str] | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Something that the surface is known not to take."""

    reason: str
    source: str


def qualified(domain: str, op_type: str) -> str:
    """``Type`` for the default domain, ``domain.Type`` for any other."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}.{op_type}"


def _operands(entries: list[dict[str, Any]] | None) -> tuple[OperandRow, ...] | None:
    if entries is None:
        return None
    return tuple(OperandRow(**{**e, "dtypes": tuple(e["dtypes"]) if e.get("dtypes") else None}) for e in entries)


def operator_row(entry: Mapping[str, Any]) -> OperatorRow:
    """A row from its JSON form."""
    fields = dict(entry)
    fields["opset"] = tuple(fields["opset"])
    fields["source"] = tuple(fields["source"])
    fields["notes"] = tuple(fields.get("notes", ()))
    fields["lowers_to"] = tuple(fields.get("lowers_to", ()))
    fields["inputs"] = _operands(fields.get("inputs"))
    fields["outputs"] = _operands(fields.get("outputs"))
    fields["combinations"] = tuple(tuple(c) for c in fields.get("combinations", ()))
    fields["constraints"] = tuple(ConstraintRow(**c) for c in fields.get("constraints", ()))
    fields["body"] = _text(fields.get("body", ()))
    fields["attributes"] = _attributes(fields.get("attributes", {}))
    if "follow" in fields:
        fields["follow"] = FollowRow(**fields["follow"])
    return OperatorRow(**fields)


def lowering_row(entry: Mapping[str, Any]) -> LoweringRow:
    """A way to lower a composite operator from its JSON form."""
    fields = dict(entry)
    fields["source"] = tuple(fields["source"])
    fields["notes"] = tuple(fields.get("notes", ()))
    fields["text"] = _text(fields["text"])
    fields["constraints"] = tuple(ConstraintRow(**c) for c in fields.get("constraints", ()))
    fields["attributes"] = _attributes(fields.get("attributes", {}))
    if "tolerance" in fields:
        fields["tolerance"] = tuple(fields["tolerance"])
    return LoweringRow(**fields)


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "\n".join(lines)


def _attributes(entries: Mapping[str, Any]) -> tuple[AttributeRow, ...]:
    return tuple(
        AttributeRow(
            name=name,
            type=attribute["type"],
            from_=attribute.get("from"),
            constant=attribute.get("constant"),
            values=tuple((ours, theirs) for ours, theirs in attribute.get("values", ())),
            default=attribute.get("default"),
            required=attribute.get("required", False),
        )
        for name, attribute in entries.items()
    )
