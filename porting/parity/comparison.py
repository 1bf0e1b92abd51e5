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
from porting.parity.fidelity import Fidelity, measure_fidelity
from porting.parity.language import IDS, LOGITS, LanguageSums
from porting.parity.layers import LayerComparison, LayerSums, Values
from porting.parity.metrics import Accumulator
from porting.parity.result import Parity
from porting.parity.sampling import Sample, SampleSet, fit, in_order
from porting.parity.verdict import Inputs, Judge, overall, worst
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
    language: LanguageSums

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
    comparison = LayerComparison(source, ported, found, numerics=numerics, isolated=isolated, memory=shared)
    attribution = Attribution(ported, lines, memory=shared)

    def one(sample: Sample) -> _Sums:
        layers, interpreted, simulated = comparison.run(sample)
        expected = interpreted if reference is None else _independent(reference, sample)
        _same_names(expected, simulated)
        distributions = LanguageSums()
        if language:
            distributions.update(expected[LOGITS], simulated[LOGITS], fit(source, sample)[IDS])
        return _Sums(
            outputs=compare(expected, simulated),
            reference={} if reference is None else compare(expected, interpreted),
            layers=layers,
            effects=attribution.run(sample, expected, simulated if numerics == EXACT else None),
            dtypes={name: _dtype(tensor) for name, tensor in simulated.items()},
            language=distributions,
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
        fidelity = measure_fidelity(file, ported, samples, threads=threads, tie=tie)
    return _judged(
        total, comparison, attribution, fidelity,
        claim=claim, inputs=inputs, budget=budget, samples=len(samples),
        numerics="exact" if numerics == EXACT else "backend", reference_name=reference_name,
        random=randomness.drawing(source),
    )  # fmt: skip


def _judged(
    total: _Sums | None,
    comparison: LayerComparison,
    attribution: Attribution,
    fidelity: Fidelity,
    *,
    claim: Claim,
    inputs: Inputs,
    budget: Budget,
    samples: int,
    numerics: str,
    reference_name: str,
    random: Sequence[str],
) -> Parity:
    sums = total or _Sums({}, {}, LayerSums(), EffectSums({}, [], []), {}, LanguageSums())
    distributions = sums.language.metrics()
    judge = Judge(budget, scheme=claim.scheme, dtype=claim.dtype)
    outputs, gate = finish(sums.outputs), finish(sums.reference)
    layers = comparison.result(sums.layers)
    of_outputs = judge.values("outputs", outputs, f"simulation ({numerics} numerics) against {reference_name}")
    if distributions is not None:
        of_outputs += judge.language(LOGITS, distributions, f"output {LOGITS}")
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
        interpreter=gate,
        fidelity=fidelity,
        effects=attribution.result(sums.effects) if total else [],
        layers=layers,
        checks=checks,
        statistics={a.source: sums.layers.statistics[a.source] for a in comparison.layers
                    if a.source in sums.layers.statistics},
    )  # fmt: skip


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
