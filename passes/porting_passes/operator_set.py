"""What one surface of a backend accepts, as data: one row for each form of an operator, with its sources.

The JSON form of a set (described in docs/operator-sets.md) has ``surface``, ``opset`` (the one to export), ``unlisted``
(the verdict on an operator that no row names), ``unlisted_reason``, ``sources``, ``rows``, ``refused`` (operators with
a reason), ``refused_dtypes`` (dtypes that the chip does not have), ``converted_dtypes`` (dtypes that the surface
replaces by others before it looks at a row) and ``library`` (what the chip has and the surface is not known to take).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

from porting_kernels.errors import PortingError
from porting_passes.constraints import parse

Evidence = Literal["doc", "vendor table", "parser source", "public consumer", "measured", "assumed"]
Verdict = Literal["illegal", "unknown"]
Unlisted = Literal["illegal", "unknown", "legal"]


class TextFile(Protocol):
    """A path, or a file inside an installed package."""

    def read_text(self, encoding: str | None = None) -> str:
        """The whole text."""


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

    @property
    def name(self) -> str:
        """The operator for people, with the row's form where it has one."""
        return qualified(self.domain, self.operator) + (f" ({self.form})" if self.form else "")

    @property
    def operands(self) -> tuple[OperandRow, ...]:
        """Inputs, then outputs."""
        return (self.inputs or ()) + (self.outputs or ())


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Something that the surface is known not to take."""

    reason: str
    source: str


@dataclasses.dataclass(frozen=True, eq=False)
class OperatorSet:
    """The rows of one surface, found by operator. Compared by identity: legality verdicts are kept per set.

    library: operators that the chip's library has without the surface being known to take them, with what is known.
    """

    surface: str
    opset: int | None
    unlisted: Unlisted
    unlisted_reason: Refusal
    rows: tuple[OperatorRow, ...] = ()
    refused: Mapping[str, Refusal] = dataclasses.field(default_factory=dict)
    refused_dtypes: Mapping[str, Refusal] = dataclasses.field(default_factory=dict)
    converted_dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    library: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sources: tuple[str, ...] = ()

    @functools.cached_property
    def _features(self) -> dict[tuple[str, str], frozenset[str]]:
        return {}

    @functools.cached_property
    def _by_operator(self) -> dict[tuple[str, str], tuple[OperatorRow, ...]]:
        found: dict[tuple[str, str], list[OperatorRow]] = {}
        for row in self.rows:
            found.setdefault((row.domain, row.operator), []).append(row)
            if row.implements is not None:
                domain, _, op_type = row.implements.rpartition(".")
                found.setdefault((domain, op_type), []).append(row)
        return {key: tuple(rows) for key, rows in found.items()}

    def find(self, domain: str, op_type: str) -> tuple[OperatorRow, ...]:
        """Every row that takes the operator as it is, or that implements it (a composite operator)."""
        return self._by_operator.get(("" if domain == "ai.onnx" else domain, op_type), ())

    def features(self, domain: str, op_type: str) -> frozenset[str]:
        """The functions that the limits of an operator's rows use (see ``constraints``)."""
        key = (domain, op_type)
        if key not in self._features:
            limits = [limit for row in self.find(domain, op_type) for limit in row.constraints]
            used = [parse(limit.expression).features for limit in limits if limit.expression is not None]
            self._features[key] = frozenset().union(*used)
        return self._features[key]

    def implementing(self, composite: str) -> tuple[OperatorRow, ...]:
        """The rows that implement a composite operator, e.g. ``porting.Quantize``, in the order to try them."""
        return tuple(row for row in self.rows if row.implements == composite)

    @property
    def operator_count(self) -> int:
        """Operators with at least one row; forms of one operator count once."""
        return len({(row.domain, row.operator) for row in self.rows})

    def accepts(self, domain: str, op_type: str, version: int) -> bool:
        """Whether some form of the operator is accepted at an opset, whatever its operands."""
        rows = self.find(domain, op_type)
        if not rows:
            return self.unlisted == "legal" and qualified(domain, op_type) not in self.refused
        return any(row.opset[0] <= version <= row.opset[1] for row in rows)

    def unexpressed(self) -> list[tuple[OperatorRow, ConstraintRow]]:
        """Limits that are known as text only; none of them is decided by the legality check."""
        return [(row, limit) for row in self.rows for limit in row.constraints if limit.expression is None]

    def between(self, toolkit: str, order: Callable[[str], int]) -> OperatorSet:
        """The set as one toolkit version has it. order: a version's place in the sequence of all versions."""
        at = order(toolkit)
        rows = tuple(
            row
            for row in self.rows
            if (row.since is None or order(row.since) <= at) and (row.until is None or at <= order(row.until))
        )
        return self if len(rows) == len(self.rows) else dataclasses.replace(self, rows=rows)

    @classmethod
    def load(cls, path: TextFile) -> OperatorSet:
        """Read a set from its JSON file. OperatorSetError where the file contradicts itself."""
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OperatorSet:
        """The set that a parsed JSON file describes."""
        rows = tuple(_row(entry) for entry in data["rows"])
        result = cls(
            surface=data["surface"],
            opset=data["opset"],
            unlisted=data["unlisted"],
            unlisted_reason=Refusal(**data["unlisted_reason"]),
            rows=rows,
            refused={name: Refusal(**entry) for name, entry in data.get("refused", {}).items()},
            refused_dtypes={name: Refusal(**entry) for name, entry in data.get("refused_dtypes", {}).items()},
            converted_dtypes=dict(data.get("converted_dtypes", {})),
            library=dict(data.get("library", {})),
            sources=tuple(data.get("sources", ())),
        )
        if result.unlisted not in get_args(Unlisted):
            raise OperatorSetError(f"operator set {result.surface}: bad 'unlisted'", met=result.unlisted)
        for row in rows:
            _check(row, result)
        return result


def qualified(domain: str, op_type: str) -> str:
    """``Type`` for the default domain, ``domain.Type`` for any other."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}.{op_type}"


def _operands(entries: list[dict[str, Any]] | None) -> tuple[OperandRow, ...] | None:
    if entries is None:
        return None
    return tuple(OperandRow(**{**e, "dtypes": tuple(e["dtypes"]) if e.get("dtypes") else None}) for e in entries)


def _row(entry: Mapping[str, Any]) -> OperatorRow:
    fields = dict(entry)
    fields["opset"] = tuple(fields["opset"])
    fields["source"] = tuple(fields["source"])
    fields["notes"] = tuple(fields.get("notes", ()))
    fields["lowers_to"] = tuple(fields.get("lowers_to", ()))
    fields["inputs"] = _operands(fields.get("inputs"))
    fields["outputs"] = _operands(fields.get("outputs"))
    fields["combinations"] = tuple(tuple(c) for c in fields.get("combinations", ()))
    fields["constraints"] = tuple(ConstraintRow(**c) for c in fields.get("constraints", ()))
    fields["attributes"] = tuple(
        AttributeRow(
            name=name,
            type=attribute["type"],
            from_=attribute.get("from"),
            constant=attribute.get("constant"),
            values=tuple((ours, theirs) for ours, theirs in attribute.get("values", ())),
            default=attribute.get("default"),
            required=attribute.get("required", False),
        )
        for name, attribute in fields.get("attributes", {}).items()
    )
    if "follow" in fields:
        fields["follow"] = FollowRow(**fields["follow"])
    return OperatorRow(**fields)


def _check(row: OperatorRow, operator_set: OperatorSet) -> None:
    """A row must speak of its own operands only, and not be refused at the same time."""
    where = f"operator set {operator_set.surface}, row {row.name}"
    if row.evidence not in get_args(Evidence) or not row.source:
        raise OperatorSetError(f"{where}: no source, or unknown evidence", met=row.evidence)
    if qualified(row.domain, row.operator) in operator_set.refused:
        raise OperatorSetError(f"{where}: the operator is also listed as refused")
    if any(len(c) != len(row.operands) for c in row.combinations):
        raise OperatorSetError(f"{where}: a combination of dtypes does not name every operand")
    own = {operand.name for operand in row.operands}
    for limit in row.constraints:
        if limit.verdict not in get_args(Verdict):
            raise OperatorSetError(f"{where}: bad verdict", met=limit.verdict)
        if limit.expression is None:
            continue
        strangers = parse(limit.expression).operands - own
        if strangers:
            raise OperatorSetError(f"{where}: {limit.expression!r} names operands the row lacks", met=strangers)
