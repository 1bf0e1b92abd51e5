"""Which weight of a model is quantized how, and why: schemes, keep-tables and the user's map put together."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from porting.errors import UsageError
from porting.quantization.keep_tables import kept
from porting.quantization.scheme_map import SchemeMap
from porting.quantization.schemes import NONE, Activation, SchemeRow, schemes
from porting.quantization.weight_spec import WeightSpec

_WEIGHT = ".weight"


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of one stored weight. spec: None where it stays in float.

    scheme: the word that decided, ``none`` where it stays. activation: how the other operand of the product comes.
    reason: for people. source: where that is written.
    """

    spec: WeightSpec | None
    activation: Activation
    scheme: str
    reason: str
    source: str

    @property
    def keep(self) -> bool:
        """Whether the weight stays in float."""
        return self.spec is None

    def agrees(self, other: Decision) -> bool:
        """Whether both do the same, for whatever reason."""
        return (self.spec, self.activation) == (other.spec, other.activation)


class QuantizationPlan(Mapping[str, Decision]):
    """Decisions by name of stored tensor, in the checkpoint's order. What is no weight of a module is not there."""

    def __init__(self, decisions: Mapping[str, Decision]) -> None:
        self._decisions = dict(decisions)

    def __getitem__(self, name: str) -> Decision:
        return self._decisions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decisions)

    def __len__(self) -> int:
        return len(self._decisions)

    def decision(self, names: Iterable[str]) -> Decision | None:
        """The one decision of a matrix that is made of these stored tensors; None if none of them is a weight.

        Names that are not in the plan (scales of block-scaled weights) do not count. Raises UsageError, naming two
        that differ, where there is not one.
        """
        found = [(name, self._decisions[name]) for name in names if name in self._decisions]
        for name, decision in found:
            _require_agreement(*found[0], name, decision)
        return found[0][1] if found else None


def module_of(name: str) -> str | None:
    """The module that a stored tensor is the weight of; None for biases, scales and whatever else is stored.

    Stacked experts (``experts.gate_up_proj``) are parameters without a module of their own: the name is taken for one.
    """
    if name.endswith(_WEIGHT):
        return name.removesuffix(_WEIGHT)
    stacked = schemes().role(name) == "routed_expert" and name.endswith("_proj")
    return name if stacked else None


def plan_quantization(
    tensors: Iterable[str] | Mapping[str, Sequence[int]],
    *,
    scheme: str,
    runtime: str,
    family: str,
    scheme_map: SchemeMap | None = None,
) -> QuantizationPlan:
    """Decide for every weight among the stored tensors of a checkpoint.

    tensors: names, or shapes by name; with shapes, what has not two axes (three where stacked) stays, and groups that
    do not divide a row take the scheme's alternative. scheme: of all that the map does not name. runtime: a surface,
    ``torch_npu`` for example. family: ``model_type`` of config.json. In this order: a fixed line of the keep-table, the
    map, the other lines of the keep-table, the scheme.
    Raises UsageError for an unknown scheme, a scheme that is not known for the runtime, a pattern of the map without
    any match or with nothing but matches that always stay, and for weights that runtimes join but that would differ.
    """
    shapes = dict(tensors) if isinstance(tensors, Mapping) else {}
    modules = {name: module for name in tensors if (module := module_of(name)) is not None}
    schemes().require(scheme)
    if scheme_map is not None:
        _check_map(scheme_map, set(modules.values()), family, runtime)
    asked = _Asked(scheme, runtime, family, scheme_map or SchemeMap())
    decisions = {name: _decide(module, asked, shapes.get(name)) for name, module in modules.items()}
    first: dict[str, str] = {}
    for name, module in modules.items():
        other = first.setdefault(schemes().matrix(module), name)
        _require_agreement(other, decisions[other], name, decisions[name])
    return QuantizationPlan(decisions)


@dataclasses.dataclass(frozen=True)
class _Asked:
    scheme: str
    runtime: str
    family: str
    map: SchemeMap


def _decide(module: str, asked: _Asked, shape: Sequence[int] | None) -> Decision:
    row, line = kept(module, asked.family, asked.runtime), asked.map.line(module)
    if row is not None and (row.fixed or line is None):
        return _stays(row.reason, row.source)
    if shape is not None and len(shape) not in (2, 3):
        return _stays(f"not a matrix: {list(shape)}", "its shape")
    scheme = asked.scheme if line is None else line.scheme
    why = f"scheme {scheme}" if line is None else f"scheme map: {line.pattern.pattern}"
    if scheme == NONE:
        return _stays(why, "the command" if line is None else asked.map.where)
    return _quantized(schemes().row(scheme, asked.runtime, schemes().role(module)), why, shape)


def _stays(reason: str, source: str) -> Decision:
    return Decision(None, "float", NONE, reason, source)


def _quantized(row: SchemeRow, why: str, shape: Sequence[int] | None) -> Decision:
    if shape is None or row.spec.fits(shape[-1]) or row.otherwise is None:
        return Decision(row.spec, row.activation, row.scheme, why, row.source)
    why += f"; groups of {row.spec.group} do not divide {shape[-1]} columns"
    return Decision(row.otherwise, row.activation, row.scheme, why, row.source)


def _check_map(scheme_map: SchemeMap, modules: set[str], family: str, runtime: str) -> None:
    for line in scheme_map.lines:
        matched = [module for module in sorted(modules) if line.pattern.fullmatch(module)]
        where = f"{scheme_map.where}, pattern {line.pattern.pattern}"
        if not matched:
            raise UsageError(
                "a pattern of the scheme map matches no module",
                required="a pattern of all of a module's name",
                met=f"{len(modules)} modules, the nearest {_nearest(line.pattern.pattern, modules)}",
                where=where,
            )
        rows = [kept(module, family, runtime) for module in matched]
        if line.scheme != NONE and all(row is not None and row.fixed for row in rows) and rows[0] is not None:
            raise UsageError(
                f"a pattern of the scheme map matches only what always stays in float, like {matched[0]}",
                required=rows[0].reason,
                met=line.scheme,
                where=f"{where}; see {rows[0].source}",
            )


def _nearest(pattern: str, modules: Iterable[str]) -> str:
    """A module whose name is most like what a pattern spells; of names that differ in numbers one is looked at."""
    kinds = {re.sub(r"\b\d+\b", "0", module): module for module in sorted(modules, reverse=True)}
    return max(kinds.values(), key=lambda module: difflib.SequenceMatcher(None, pattern, module).ratio())


def _require_agreement(name: str, decision: Decision, other: str, another: Decision) -> None:
    if not decision.agrees(another):
        raise UsageError(
            "weights of one matrix are to be quantized differently",
            required="one scheme for weights that runtimes join",
            met=f"{name}: {_words(decision)}; {other}: {_words(another)}",
            fix="name all of them, or none, in the scheme map",
        )


def _words(decision: Decision) -> str:
    return f"{decision.scheme} ({decision.reason})"
