"""Which quantized products a port's error comes from: each group of them is computed in float, and the error is
measured again.

The port runs as it is, but for the outputs of the group: they are computed in float32 from what the port feeds the
group and from the source's weights, and rounded to the port's format. Routing of experts is that of the reference in
every run: a flip that one group happens to turn back says nothing about the group (see ``replay``).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import onnx_ir as ir
import torch

from porting.parity.decoder_layers import layer_of
from porting.parity.float_regions import Region
from porting.parity.forcing import Forcing
from porting.parity.language import IDS, LOGITS, LanguageSums
from porting.parity.metrics import Accumulator, significant
from porting.parity.routing import Router
from porting.parity.sampling import Sample, fit, in_order, saturated
from porting.quantization.schemes import schemes
from porting.simulation.interpreter import Interpreter
from porting.simulation.weight_cache import WeightCache
from porting_kernels.numerics import EXACT, Numerics

SCHEMA_VERSION = 1
MANY = 64
"""Modules above which whole decoder layers are measured unless the caller says otherwise."""

By = Literal["module", "layer"]
Values = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Group:
    """Products that go to float together. name: module or decoder layer."""

    name: str
    regions: tuple[Region, ...]

    @property
    def pattern(self) -> str:
        """A regular expression over whole module names that matches the modules of the group's weights."""
        return pattern_of(name for region in self.regions for name in region.weights)


@dataclasses.dataclass(frozen=True)
class Gain:
    """error: of the port with the group in float. gain: how much less that is than with nothing in float."""

    group: Group
    error: float
    gain: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """metric: ``kl_mean`` in nats for language models, ``rel_l2`` of all outputs otherwise. error: of the port.

    floor: with every group in float. gains: the largest first. unmeasured: modules that cannot be replaced.
    """

    metric: Literal["kl_mean", "rel_l2"]
    by: By
    samples: int
    error: float
    floor: float
    gains: Sequence[Gain]
    unmeasured: Sequence[str]

    def scheme_map(self, top: int) -> dict[str, str]:
        """Pattern -> ``none`` for the groups that gain most, as ``--scheme-map`` takes it."""
        return {gain.group.pattern: "none" for gain in self.gains[:top] if gain.gain > 0}

    def to_json(self, top: int) -> dict[str, Any]:
        """The document of ``porting sensitivity --json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "metric": self.metric,
            "by": self.by,
            "samples": self.samples,
            "error": significant(self.error),
            "floor": significant(self.floor),
            "groups": [
                {
                    "name": g.group.name,
                    "modules": list(dict.fromkeys(m for region in g.group.regions for m in region.modules)),
                    "pattern": g.group.pattern,
                    "error": significant(g.error),
                    "gain": significant(g.gain),
                }
                for g in self.gains
            ],
            "unmeasured": list(self.unmeasured),
            "scheme_map": self.scheme_map(top),
        }


def groups(regions: Sequence[Region], by: By | None = None) -> tuple[list[Group], By]:
    """Regions by module, or by decoder layer where there are `MANY` or ``by`` says so.

    Weights that a runtime joins into one matrix (``q_a_proj`` and ``kv_a_proj_with_mqa``) can only stay in float
    together: their modules are one group, named by the first.
    """
    chosen: By = by or ("layer" if len({r.module for r in regions}) > MANY else "module")
    found: dict[str, list[Region]] = {}
    names: dict[str, str] = {}
    for region in regions:
        name = region.module if chosen == "module" else layer_of(region.module) or region.module
        matrices = [schemes().matrix(_stored_module(weight)) for weight in region.weights]
        name = next((names[key] for key in (f"module {name}", *matrices) if key in names), name)
        names |= dict.fromkeys([f"module {name}", f"module {region.module}", *matrices], name)
        found.setdefault(name, []).append(region)
    return [Group(name, tuple(members)) for name, members in found.items()], chosen


def measure(
    source: ir.Model,
    ported: ir.Model,
    samples: Iterable[Sample],
    found: Sequence[Group],
    *,
    by: By,
    unmeasured: Sequence[str] = (),
    routers: Sequence[Router] = (),
    language: bool = False,
    numerics: Numerics = EXACT,
    memory: int | None = None,
    threads: int = 1,
    each: Callable[[int], None] = lambda done: None,
) -> Sensitivity:
    """Measure every group.

    source: the unrewritten import, the truth. each: called after each sample with how many are done. Other arguments
    as in ``comparison.measure``. A run of the port for every group and sample, and two more a sample.
    """
    shared = WeightCache(memory)
    reference, simulation = Interpreter(source, memory=shared), Interpreter(ported, numerics=numerics, memory=shared)
    # A replaced product carries what the port rounds its results to; everything inside is float32.
    alone = {id(r): Interpreter(r.model, memory=shared) for group in found for r in group.regions}
    forced = [router for router in routers if router.can_be_forced]
    everything = Group("", tuple(region for group in found for region in group.regions))
    trials = [Group("", ()), everything, *found]

    def one(sample: Sample) -> list[_Error]:
        inputs = fit(source, sample)
        expected, choices = _free(reference, inputs, forced)
        errors = []
        for group in trials:
            forcing = Forcing(forced, choices, "port")
            outputs = _replaced(simulation, fit(ported, sample), group, alone, forcing)
            errors.append(_Error.of(expected, outputs, inputs.get(IDS) if language else None))
        return errors

    total = [_Error() for _ in trials]
    count = 0
    for errors in in_order(one, samples, threads):
        count += 1
        for sums, more in zip(total, errors, strict=True):
            sums.merge(more)
        each(count)
    base, floor, *rest = (sums.value(language) for sums in total)
    gains = [Gain(group, error, base - error) for group, error in zip(found, rest, strict=True)]
    return Sensitivity(
        metric="kl_mean" if language else "rel_l2",
        by=by,
        samples=count,
        error=base,
        floor=floor,
        gains=sorted(gains, key=lambda gain: -gain.gain),
        unmeasured=tuple(dict.fromkeys(unmeasured)),
    )


@dataclasses.dataclass
class _Error:
    """The error of one trial over one sample (or several, merged)."""

    outputs: Accumulator = dataclasses.field(default_factory=Accumulator)
    language: LanguageSums = dataclasses.field(default_factory=LanguageSums)

    @classmethod
    def of(cls, expected: Values, outputs: Values, ids: torch.Tensor | None) -> _Error:
        error = cls()
        if ids is not None:
            error.language.update(expected[LOGITS], outputs[LOGITS], ids)
            return error
        for name, tensor in outputs.items():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                error.outputs.update(expected[name], tensor, where=name)
        return error

    def merge(self, other: _Error) -> None:
        self.outputs.merge(other.outputs)
        self.language.merge(other.language)

    def value(self, language: bool) -> float:
        if not language:
            return self.outputs.metrics().rel_l2
        metrics = self.language.metrics()
        return metrics.kl_mean if metrics is not None else 0.0


def _free(
    reference: Interpreter, inputs: Values, routers: Sequence[Router]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Outputs of the reference and the experts that it chose."""
    choices: dict[str, torch.Tensor] = {}

    def tap(value: ir.Value, tensor: torch.Tensor) -> None:
        choices[value.name or ""] = tensor

    return reference.run(inputs, tap=tap, wanted={router.ids for router in routers}), choices


def _replaced(
    simulation: Interpreter, inputs: Values, group: Group, alone: Mapping[int, Interpreter], forcing: Forcing
) -> dict[str, torch.Tensor]:
    """The port's outputs with a group in float."""
    by_output = {name: region for region in group.regions for name in region.outputs}
    wanted = {name for region in group.regions for name in region.inputs}
    seen: dict[str, torch.Tensor] = {name: tensor for name, tensor in inputs.items() if name in wanted}
    results: dict[int, dict[str, torch.Tensor]] = {}

    def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
        name = value.name or ""
        region = by_output.get(name)
        if region is not None:
            if id(region) not in results:
                arguments = {inner: seen[outer] for outer, inner in region.inputs.items()}
                results[id(region)] = alone[id(region)].run(fit(region.model, arguments))
            tensor = saturated(results[id(region)][region.outputs[name]], tensor.dtype)
        replacement = forcing.tap(name, tensor)
        given = tensor if replacement is None else replacement
        if name in wanted:
            seen[name] = given
        return given if region is not None or replacement is not None else None

    return simulation.run(inputs, tap=tap, wanted={*wanted, *by_output, *forcing.wanted})


def pattern_of(weights: Iterable[str]) -> str:
    """A regular expression that matches, as a whole, the module of each weight and of all experts beside it."""
    prefixes: dict[str, list[str]] = {}
    for name in weights:
        module = _stored_module(name)
        prefix, _, last = module.rpartition(".")
        parts = [r"\d+" if part.isdigit() and before == "experts" else re.escape(part)
                 for before, part in zip(["", *prefix.split(".")], prefix.split("."), strict=False)]  # fmt: skip
        prefixes.setdefault(r"\.".join(parts), []).append(re.escape(last))
    alternatives = []
    for prefix, lasts in prefixes.items():
        unique = list(dict.fromkeys(lasts))
        tail = unique[0] if len(unique) == 1 else f"({'|'.join(unique)})"
        alternatives.append(f"{prefix}\\.{tail}" if prefix else tail)
    return "|".join(alternatives)


def _stored_module(weight: str) -> str:
    """The module that a stored weight is of: what patterns of a scheme map match."""
    return weight.removesuffix(".weight")
