"""What one surface of a backend accepts, as data: one row for each form of an operator, with its sources.

The JSON form of a set (described in docs/operator-sets.md) has ``surface``, ``opset`` (the one to export), ``unlisted``
(the verdict on an operator that no row names), ``unlisted_reason``, ``sources``, ``rows``, ``refused`` (operators with
a reason), ``refused_dtypes`` (dtypes that the chip does not have), ``converted_dtypes`` (dtypes that the surface
replaces by others before it looks at a row), ``library`` (what the chip has and the surface is not known to take) and
``lowerings`` (how composite operators are written in operators of the rows). A set is a file, or a folder of files:
``surface.json`` and, a family of operators each, files with ``rows``, ``lowerings`` and the ``defaults`` of their rows.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, get_args

from porting_passes.call_text import parse_call
from porting_passes.constraints import parse
from porting_passes.operator_rows import (
    AttributeRow,
    ConstraintRow,
    Evidence,
    FollowRow,
    LoweringRow,
    OperandRow,
    OperatorRow,
    OperatorSetError,
    Refusal,
    Unlisted,
    Verdict,
    lowering_row,
    operator_row,
    qualified,
)

__all__ = [
    "AttributeRow",
    "ConstraintRow",
    "Evidence",
    "FollowRow",
    "LoweringRow",
    "OperandRow",
    "OperatorRow",
    "OperatorSet",
    "OperatorSetError",
    "Refusal",
    "TextFile",
    "Unlisted",
    "Verdict",
    "qualified",
]


class TextFile(Protocol):
    """A path, or a file or folder inside an installed package."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    def read_text(self, encoding: str | None = None) -> str:
        """The whole text."""

    def is_dir(self) -> bool:
        """Whether it is a folder."""

    def iterdir(self) -> Iterable[Any]:
        """What is in the folder."""

    def joinpath(self, name: str, /) -> Any:
        """What the folder has under a name."""


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
    lowerings: tuple[LoweringRow, ...] = ()

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
            limits += [limit for row in self.lowerings_of(domain, op_type) for limit in row.constraints]
            used = [parse(limit.expression).features for limit in limits if limit.expression is not None]
            self._features[key] = frozenset().union(*used)
        return self._features[key]

    def implementing(self, composite: str) -> tuple[OperatorRow, ...]:
        """The rows that implement a composite operator, e.g. ``porting.Quantize``, in the order to try them."""
        return tuple(row for row in self.rows if row.implements == composite)

    def lowerings_of(self, domain: str, op_type: str) -> tuple[LoweringRow, ...]:
        """The ways to write a composite operator, in the order to try them."""
        return self._lowerings.get(qualified(domain, op_type), ())

    @functools.cached_property
    def _lowerings(self) -> dict[str, tuple[LoweringRow, ...]]:
        found: dict[str, list[LoweringRow]] = {}
        for lowering in self.lowerings:
            found.setdefault(lowering.implements, []).append(lowering)
        return {name: tuple(rows) for name, rows in found.items()}

    def form(self, domain: str, op_type: str, form: str) -> OperatorRow | None:
        """The row of one form of an operator."""
        return next((row for row in self.find(domain, op_type) if row.form == form), None)

    @property
    def operator_count(self) -> int:
        """Operators with at least one row; forms of one operator count once."""
        return len({(row.domain, row.operator) for row in self.rows})

    def accepts(self, domain: str, op_type: str, version: int) -> bool:
        """Whether some form of the operator is accepted at an opset, whatever its operands."""
        rows = self.find(domain, op_type)
        if self.lowerings_of(domain, op_type):
            return True
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
        """Read a set from its JSON file or folder. OperatorSetError where it contradicts itself."""
        if not path.is_dir():
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        data = json.loads(path.joinpath("surface.json").read_text(encoding="utf-8"))
        rows, lowerings = list(data.get("rows", ())), list(data.get("lowerings", ()))
        for file in sorted(path.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".json") and file.name != "surface.json":
                family = json.loads(file.read_text(encoding="utf-8"))
                rows += [{**family.get("defaults", {}), **row} for row in family.get("rows", ())]
                lowerings += family.get("lowerings", ())
        return cls.from_json({**data, "rows": rows, "lowerings": lowerings})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OperatorSet:
        """The set that a parsed JSON file describes."""
        rows = tuple(operator_row(entry) for entry in data["rows"])
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
            lowerings=tuple(lowering_row(entry) for entry in data.get("lowerings", ())),
        )
        if result.unlisted not in get_args(Unlisted):
            raise OperatorSetError(f"operator set {result.surface}: bad 'unlisted'", met=result.unlisted)
        for row in rows:
            _check(row, result)
        for lowering in result.lowerings:
            _check_lowering(lowering, result)
        return result


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
    _check_limits(row.constraints, own, where)
    if bool(row.body) != bool(row.call):
        raise OperatorSetError(f"{where}: a body and a call go together", met=row.body or row.call)
    if row.call:
        call = parse_call(row.call)
        strangers = call.names - own - {attribute.name for attribute in row.attributes}
        unused = {operand.name for operand in row.inputs or ()} - call.names
        if strangers or unused:
            raise OperatorSetError(f"{where}: its call does not take the operands it has", met=strangers | unused)


def _check_lowering(lowering: LoweringRow, operator_set: OperatorSet) -> None:
    where = f"operator set {operator_set.surface}, lowering {lowering.name} of {lowering.implements}"
    if lowering.evidence not in get_args(Evidence) or not lowering.source:
        raise OperatorSetError(f"{where}: no source, or unknown evidence", met=lowering.evidence)
    _check_limits(lowering.constraints, None, where)


def _check_limits(limits: Iterable[ConstraintRow], own: set[str] | None, where: str) -> None:
    """Every limit is written in the language and speaks of operands that are there; own: None for any."""
    for limit in limits:
        if limit.verdict not in get_args(Verdict):
            raise OperatorSetError(f"{where}: bad verdict", met=limit.verdict)
        if limit.expression is None:
            continue
        operands = parse(limit.expression).operands
        strangers = set() if own is None else operands - own
        if strangers:
            raise OperatorSetError(f"{where}: {limit.expression!r} names operands the row lacks", met=strangers)
