"""The main job: SOURCE -> OUT, with proof of parity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porting import frontends, manifest, synthetic
from porting.checkpoint.served import Served
from porting.data import Data, open_data
from porting.emit import WeightFile, WeightPlace, write_model
from porting.errors import UsageError
from porting.frontends import Source
from porting.inspect_emitted import require_accepted
from porting.json_text import json_text
from porting.measurement import measure_port
from porting.output_folder import claim
from porting.parity import anchors
from porting.parity.budgets import load_budget
from porting.parity.result import Parity
from porting.parity.sampling import SampleSet
from porting.parity.verdict import Inputs
from porting.pipeline import Pipeline
from porting.port_folder import INPUTS, MODEL, PARITY, PROVENANCE, RANGES, REFERENCE, TWIN, PortFolder
from porting.quantization import range_file
from porting.quantization.calibration import calibrate
from porting.quantization.decide import decider
from porting.quantization.scheme_map import read_scheme_map
from porting.quantization.smooth_norms import Smoothed, smooth_norms
from porting.samples import counted
from porting.samples import write as write_samples
from porting.target import Target
from porting_passes.operators import add_bodies
from porting_passes.quantize_static import ActivationRange

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """What ``porting port`` was asked to do. calibrate, inputs: DATA; budget: the user's limits.

    memory: bytes of a checkpoint's weights that the runs keep between their uses. scheme_map: what the user says of
    single weights. smooth: the share of the difficulty of activations that goes to the weights, None not to smooth.
    """

    source: str
    target: Target
    out: Path
    calibrate: Path | None = None
    method: str = "minmax"
    inputs: Path | None = None
    budget: Path | None = None
    weights: WeightPlace = "beside"
    memory: int | None = None
    scheme_map: Path | None = None
    smooth: float | None = None
    served: Served | None = None
    threads: int = 1
    force: bool = False


def port(request: Request, say: Say = lambda line: None) -> Parity | None:
    """Do it. OUT appears whole when everything is written; its parity, or None where weights are left out.

    Raises PortingErrors, whose classes own their exit codes; then there is no OUT.
    """
    target = request.target
    if target.quantizes_by_ranges and request.calibrate is None:
        raise UsageError(
            f"scheme {target.scheme} needs data to find the ranges of activations", fix="--calibrate DATA.npz"
        )
    budget = load_budget(request.budget)
    scheme_map = None if request.scheme_map is None else read_scheme_map(request.scheme_map)
    with claim(request.out, force=request.force) as folder:
        say(f"import    {request.source}")
        source = frontends.load(request.source)
        pipeline = Pipeline(source.model.clone(), target, language_model=source.is_language_model)
        pipeline.bind(source.dims)
        unrewritten = pipeline.model.clone()
        if request.served is not None:
            request.served.put_into(pipeline.model)
        calibration, samples, inputs = _data(request, source, unrewritten, pipeline.dims)

        say(f"rewrite   for {target.specification}, surface {target.surface.name}")
        meant = pipeline.to_surface(
            calibrate=lambda names: _calibrated(request, pipeline, names, calibration, say),
            decide=lambda: (
                request.served.decide
                if request.served is not None
                else decider(source, target, scheme_map, _smoothed(request, pipeline, calibration, say))
            ),
        )
        pipeline.require_legal()
        for operator in pipeline.unused_permissions:
            say(f"note      --allow-unknown {operator}: no node of unknown legality has this operator")

        say("emit      model, weights, provenance")
        _emit(folder, pipeline, meant, request.weights)
        require_accepted(folder / MODEL, target.surface, target.allow_unknown, dims=pipeline.dims)
        record = _record(request, source, unrewritten, pipeline, calibration, folder)
        parity = None
        if request.weights != "none":
            say(f"compare   {counted(samples)} ({inputs}) with {source.reference.name}")
            parity = measure_port(
                PortFolder(folder, record), source, unrewritten, samples,
                inputs=inputs, budget=budget, memory=request.memory, threads=request.threads,
            )  # fmt: skip
            _write_evidence(folder, samples, unrewritten.graph.inputs, parity)
            record["files"] = manifest.digests(folder)
            _write_report(folder, parity, record)
        record["files"] = manifest.digests(folder)
        manifest.write(folder, record)
    return parity


def _data(
    request: Request, source: Source, model: ir.Model, dims: Mapping[str, tuple[int, int]]
) -> tuple[Data | None, SampleSet, Inputs]:
    """Samples to calibrate with and samples to compare with, and whose they are."""
    wanted = model.graph.inputs
    calibration = None if request.calibrate is None else open_data(request.calibrate, source, wanted, dims)
    if request.inputs is not None:
        return calibration, open_data(request.inputs, source, wanted, dims), "user"
    if calibration is not None:
        return calibration, calibration, "user"
    return None, synthetic.samples(wanted, dims), "synthetic"


def _calibrated(
    request: Request, pipeline: Pipeline, activations: Sequence[str], samples: Data | None, say: Say
) -> dict[str, ActivationRange]:
    style = pipeline.target.surface.quantization
    assert style is not None
    assert samples is not None
    say(f"calibrate {len(activations)} activations on {samples.examples} examples ({request.method})")
    return calibrate(
        pipeline.model,
        activations,
        samples,
        method=request.method,
        symmetry=style.activation,
        threads=request.threads,
    )


def _smoothed(request: Request, pipeline: Pipeline, samples: Data | None, say: Say) -> dict[ir.Value, Smoothed]:
    """Weights behind divided normalizations, where smoothing was asked for."""
    if request.smooth is None or samples is None:
        return {}
    found = smooth_norms(pipeline.model, samples, alpha=request.smooth, memory=request.memory, threads=request.threads)
    say(f"smooth    {len(found)} weights by {samples.examples} examples")
    pipeline.passes.append("SmoothNorms")
    return found


def _emit(
    folder: Path,
    pipeline: Pipeline,
    meant: ir.Model | None,
    place: WeightPlace,
) -> None:
    """model.onnx, the twin or the range file where the surface wants one, the weights, and provenance."""
    surface = pipeline.target.surface
    style = surface.quantization
    weights = None if place == "embed" else WeightFile(folder, stored=place == "beside")
    if meant is not None and style is not None:
        if style.carrier == "ranges":
            content = range_file.document(pipeline.quantized, pipeline.ranges, style)
            (folder / RANGES).write_text(json_text(content), encoding="utf-8")
        twin = meant.clone()
        if surface.kind == "converter":
            pipeline.lower()
            add_bodies(twin)
            write_model(twin, folder / TWIN, weights)
    if surface.kind == "python":
        pipeline.lower()
    if surface.kind == "reference":
        add_bodies(pipeline.model)
    write_model(pipeline.model, folder / MODEL, weights)
    if weights is not None:
        weights.close()
    anchors.write(meant if meant is not None else pipeline.model, folder / PROVENANCE)


def _write_evidence(folder: Path, samples: SampleSet, inputs: Sequence[ir.Value], parity: Parity) -> None:
    """The inputs that were used, and statistics of the reference."""
    write_samples(samples, folder / INPUTS, inputs)
    (folder / REFERENCE).write_text(json_text(parity.evidence()), encoding="utf-8")
    (folder / PARITY).write_text(json_text(parity.to_json()), encoding="utf-8")


def _write_report(folder: Path, parity: Parity, record: Mapping[str, Any]) -> None:
    from porting.parity import report

    (folder / manifest.REPORT).write_text(report.render(parity.to_json(), record), encoding="utf-8")


def _record(
    request: Request,
    source: Source,
    unrewritten: ir.Model,
    pipeline: Pipeline,
    calibration: Data | None,
    folder: Path,
) -> dict[str, Any]:
    """``port.json``, but for the digests of files."""
    target = request.target
    return {
        "schema_version": manifest.SCHEMA_VERSION,
        "source": {"path": source.text, "kind": source.kind, "digest": f"sha256:{source.digest}"},
        "backend": target.specification,
        "surface": target.surface.name,
        "scheme": target.scheme,
        "dtype": target.dtype,
        "opset": pipeline.model.opset_imports.get("", 1),
        "inputs": manifest.signature(unrewritten.graph.inputs),
        "outputs": manifest.signature(unrewritten.graph.outputs),
        "dims": {name: list(bounds) for name, bounds in sorted({**target.dims, **pipeline.dims}.items())},
        "tools": manifest.tools(),
        "threads": {"intra_op": 1},
        "operators": {
            "before": manifest.operators(unrewritten),
            "after": manifest.operators(pipeline.model),
        },
        "passes": pipeline.passes,
        "rewrites": manifest.rewrites(pipeline.applied),
        "unknowns_allowed": _allowed(pipeline),
        "quantized": [
            {
                "name": product.place,
                "operator": product.op_type,
                "weight_bits": product.weight_bits,
                "group": product.group,
                "activation_bits": product.activation_bits,
            }
            for product in pipeline.products
        ],
        "kept_in_float": [{"name": k.place, "operator": k.op_type, "reason": k.reason} for k in pipeline.kept],
        "not_in_graph": list(source.not_in_graph),
        "block_scales": None if source.block_scales is None or request.weights == "none" else source.block_scales(),
        "smoothing": None
        if request.smooth is None or calibration is None
        else {"alpha": request.smooth, "samples": calibration.examples},
        "calibration": None
        if calibration is None or not target.quantizes_by_ranges
        else {"method": request.method, "samples": calibration.examples, "inputs": "user"},
        "weights": request.weights,
        "files": {},
        "consumer": target.surface.consumer or "none known",
    }


def _allowed(pipeline: Pipeline) -> list[dict[str, Any]]:
    grouped: dict[str, list[Any]] = {}
    for failure in pipeline.allowed:
        grouped.setdefault(failure.operator, []).append(failure)
    return [
        {
            "operator": operator,
            "nodes": len(failures),
            "reasons": list(dict.fromkeys(str(r) for f in failures for r in f.reasons)),
        }
        for operator, failures in sorted(grouped.items())
    ]
