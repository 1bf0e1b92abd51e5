"""The whole measurement of one port: samples in, `Parity` out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from porting.errors import ParityError
from porting.parity import anchors as anchoring
from porting.parity import randomness
from porting.parity.attribution import (
    Attribution,
    EffectSums,
    NumericsLine,
    compare,
    finish,
    merge_all,
)
from porting.parity.budgets import Budget
from porting.parity.experts import Routing, Settled
from porting.parity.fidelity import Fidelity, measure_fidelity
from porting.parity.language import LOGITS, LanguageMetrics
from porting.parity.language_model import LanguageModelComparison, LanguageModelSums, routers_of
from porting.parity.layers import LayerComparison, LayerSums, Values
from porting.parity.metrics import Accumulator, Metrics
from porting.parity.result import Parity
from porting.parity.sampling import Sample, SampleSet, in_order
from porting.parity.verdict import Check, Inputs, Judge, overall, worst
from porting.simulation.weight_cache import WeightCache
from porting_kernels import dtypes
from porting_kernels.numerics import EXACT, Numerics
from porting_passes.provenance import Provenance

Reference = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the port says it is: the words that choose the limits and head the report. source: digest of the source."""

    source: str
    backend: str
    surface: str
    scheme: str
    dtype: str


@dataclasses.dataclass
class _Sums:
    outputs: dict[str, Accumulator]
    reference: dict[str, Accumulator]
    layers: LayerSums
    effects: EffectSums
    dtypes: dict[str, str]
    language: LanguageModelSums

    def merge(self, other: _Sums) -> None:
        merge_all(self.outputs, other.outputs)
        merge_all(self.reference, other.reference)
        self.layers.merge(other.layers)
        self.effects.merge(other.effects)
        self.language.merge(other.language)


def measure(
    source: ir.Model,
    ported: ir.Model,
    samples: SampleSet,
    *,
    claim: Claim,
    inputs: Inputs,
    budget: Budget,
    origins: Mapping[str, Provenance] | None = None,
    reference: Reference | None = None,
    reference_name: str = "interpreter, float32",
    numerics: Numerics = EXACT,
    lines: Sequence[NumericsLine] = (),
    file: Path | None = None,
    isolated: bool = True,
    language: bool = False,
    memory: int | None = None,
    threads: int = 1,
) -> Parity:
    """Measure a port and judge it.

    source: the unrewritten import. ported: the model to simulate; its graph outputs have the source's names.
    samples: by graph input; read one at a time, twice when ``file`` is given.
    origins: provenance by ported value name, from the values themselves when None.
    reference: the source run by something that is not our interpreter, arrays by name in and out; the interpreter is
    then held against it at the outputs. numerics: of the simulation that is judged; lines: the same, line by line.
    file: what stock onnxruntime runs for port fidelity; without it fidelity is not measured.
    language: input_ids and logits are those of a language model. memory: bytes of weights that all runs together keep.

    Raises ParityError where reference and port cannot be compared (other outputs, other shapes).
    """
    found = anchoring.find(source, ported, anchoring.of_model(ported) if origins is None else origins)
    shared = WeightCache(memory)
    routers = routers_of(source, found) if language else []
    comparison = LayerComparison(
        source, ported, found, numerics=numerics, isolated=isolated, sets={r.ids for r in routers}, memory=shared
    )
    attribution = Attribution(ported, lines, memory=shared)
    model: LanguageModelComparison | None = None
    tolerance = budget.bound("routing", "tie_distance", scheme=claim.scheme, dtype=claim.dtype, default=0.0)
    if language:
        model = LanguageModelComparison(source, ported, found, routers, comparison, tolerance=tolerance)

    def one(sample: Sample) -> _Sums:
        run = comparison.run(
            sample,
            source_values=model.source_values if model else (),
            ported_values=model.ported_values if model else (),
        )
        expected = run.expected if reference is None else _independent(reference, sample)
        _same_names(expected, run.simulated)
        return _Sums(
            outputs=compare(expected, run.simulated),
            reference={} if reference is None else compare(expected, run.expected),
            layers=run.sums,
            effects=attribution.run(sample, expected, run.simulated if numerics == EXACT else None),
            dtypes={name: _dtype(tensor) for name, tensor in run.simulated.items()},
            language=model.run(run, expected) if model else LanguageModelSums(),
        )

    total: _Sums | None = None
    for sums in in_order(one, samples, threads):
        if total is None:
            total = sums
        else:
            total.merge(sums)
    tie = budget.bound("fidelity", "tie_distance", scheme=claim.scheme, dtype=claim.dtype, default=0.0)
    weights = sum(v.const_value.nbytes for v in ported.graph.initializers.values() if v.const_value is not None)
    if file is None:
        fidelity = Fidelity("onnxruntime", not_measured="no file for onnxruntime was written")
    elif memory is not None and language and weights > memory:
        reason = f"it would hold all {weights >> 10} KiB of weights, and --memory is {memory >> 10} KiB"
        fidelity = Fidelity("onnxruntime", not_measured=reason)
    else:
        fidelity = measure_fidelity(file, ported, samples, threads=threads, tie=tie, routers=routers)
    return _judged(
        total, comparison, attribution, fidelity, model,
        claim=claim, inputs=inputs, budget=budget, samples=len(samples),
        numerics="exact" if numerics == EXACT else "backend", reference_name=reference_name,
        random=randomness.drawing(source),
    )  # fmt: skip


def _judged(
    total: _Sums | None,
    comparison: LayerComparison,
    attribution: Attribution,
    fidelity: Fidelity,
    model: LanguageModelComparison | None,
    *,
    claim: Claim,
    inputs: Inputs,
    budget: Budget,
    samples: int,
    numerics: str,
    reference_name: str,
    random: Sequence[str],
) -> Parity:
    sums = total or _Sums({}, {}, LayerSums(), EffectSums({}, [], []), {}, LanguageModelSums())
    judge = Judge(budget, scheme=claim.scheme, dtype=claim.dtype)
    outputs, gate = finish(sums.outputs), finish(sums.reference)
    layers = comparison.result(sums.layers)
    of_outputs, routing, replayed = _outputs(
        judge, sums, outputs, model, f"simulation ({numerics} numerics)", reference_name
    )
    distributions = sums.language.free.metrics()
    checks = [
        *judge.values("reference", gate, f"interpreter against {reference_name}"),
        *judge.fidelity(fidelity),
        *of_outputs,
        *judge.layers(layers),
        *judge.overflows(layers, outputs_hold=worst(of_outputs) != "fail"),
    ]
    if random:
        checks = randomness.unjudged(checks, random)
    verdict, reasons = overall(checks, inputs=inputs, samples=samples)
    if random:
        verdict, reasons = "not_measured", [f"the model draws random numbers: {', '.join(random)}"]
    return Parity(
        verdict=verdict,
        reasons=reasons,
        inputs=inputs,
        samples=samples,
        source=claim.source,
        backend=claim.backend,
        surface=claim.surface,
        scheme=claim.scheme,
        dtype=claim.dtype,
        numerics=numerics,
        reference=reference_name,
        budget=budget.to_json(scheme=claim.scheme, dtype=claim.dtype),
        outputs=outputs,
        outputs_exact=finish(sums.effects.exact),
        output_dtypes=sums.dtypes,
        language={} if distributions is None else {LOGITS: distributions},
        replayed={} if replayed is None else {LOGITS: replayed},
        routing=routing,
        decoder_layers=model.layers.result(sums.language.layers) if model else [],
        interpreter=gate,
        fidelity=fidelity,
        effects=attribution.result(sums.effects) if total else [],
        layers=layers,
        checks=checks,
        statistics={a.source: sums.layers.statistics[a.source] for a in comparison.layers
                    if a.source in sums.layers.statistics},
    )  # fmt: skip


def _outputs(
    judge: Judge,
    sums: _Sums,
    outputs: Mapping[str, Metrics],
    model: LanguageModelComparison | None,
    simulation: str,
    reference: str,
) -> tuple[list[Check], Routing | None, LanguageMetrics | None]:
    """Checks of the outputs and of routing; where flips are all that breaks the budget, those of the replay stand."""
    checks = judge.values("outputs", outputs, f"{simulation} against {reference}")
    free = sums.language.free.metrics()
    if free is not None:
        checks += judge.language(LOGITS, free, f"output {LOGITS}")
    if model is None or not model.routers:
        return checks, None, None
    routing = Routing(model.routers, sums.language.routers)
    replayed = sums.language.replayed.metrics() if routing.flips else None
    settled: Settled = "free run"
    if replayed is not None and worst(checks) == "fail":
        where = f"{simulation} against the reference with the same experts"
        again = judge.values("outputs", finish(sums.language.replayed_outputs), where)
        again += judge.language(LOGITS, replayed, f"output {LOGITS}, {where}")
        if worst(again) == "fail":
            checks += [check for check in again if check.verdict == "fail"]
        else:
            checks, settled = again, "replay"
    routing = dataclasses.replace(routing, settled_by=settled if sums.language.routers else None)
    return [*checks, *judge.routing(routing)], routing, replayed


def _independent(reference: Reference, sample: Sample) -> Values:
    arrays = {n: dtypes.to_numpy(a) if isinstance(a, torch.Tensor) else np.asarray(a) for n, a in sample.items()}
    return {name: dtypes.to_torch(np.asarray(array)) for name, array in reference(arrays).items()}


def _same_names(expected: Mapping[str, Any], simulated: Mapping[str, Any]) -> None:
    if set(simulated) != set(expected):
        raise ParityError(
            "the port has other outputs than the source",
            required=", ".join(sorted(expected)),
            met=", ".join(sorted(simulated)),
        )


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else "sequence"
