"""Legality without weights: which nodes have no legal form on a target, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from porting.frontends import Source
from porting.pipeline import Pipeline
from porting.quantization.decide import decider
from porting.quantization.scheme_map import SchemeMap
from porting.target import Target
from porting_passes.legality import Illegal, Unknown, check
from porting_passes.legalize import Failure, failure_of
from porting_passes.quantize_static import ActivationRange

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Checked:
    """nodes: how many were judged. failures: all of them, in the order of the graph.

    unused_permissions: operators that the target lets through unknown, and that let no node through.
    """

    source: Source
    target: Target
    as_is: bool
    nodes: int
    failures: tuple[Failure, ...]
    unused_permissions: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """legal, illegal or unknown; illegal outweighs unknown."""
        verdicts = {f.verdict for f in self.failures}
        return "illegal" if "illegal" in verdicts else "unknown" if verdicts else "legal"

    def to_json(self) -> dict[str, Any]:
        """The document of ``porting check --json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "source": {"path": self.source.text, "digest": f"sha256:{self.source.digest}"},
            "backend": self.target.specification,
            "surface": self.target.surface.name,
            "as_is": self.as_is,
            "verdict": self.verdict,
            "nodes": {
                "total": self.nodes,
                "illegal": sum(f.verdict == "illegal" for f in self.failures),
                "unknown": sum(f.verdict == "unknown" for f in self.failures),
            },
            "failures": [
                {
                    "node": f.node,
                    "operator": f.operator,
                    "verdict": f.verdict,
                    "reasons": [
                        {"rule": r.rule, "met": r.met, "allowed": r.allowed, "source": r.source} for r in f.reasons
                    ],
                    "candidates": [{"name": name, "why_not": why} for name, why in f.candidates],
                    "place": f.place,
                }
                for f in self.failures
            ],
        }


def check_source(
    source: Source, target: Target, *, as_is: bool = False, scheme_map: SchemeMap | None = None
) -> Checked:
    """Judge every node: after all rewrites, or, ``as_is``, the source as it stands at its own opset.

    With a scheme of static ranges every activation is given -1..1: legality does not depend on it.
    """
    pipeline = Pipeline(source.model.clone(), target, language_model=source.is_language_model)
    pipeline.bind(source.dims)
    if as_is:
        failures = _judge_all(pipeline)
        pipeline.failures = failures
    else:
        pipeline.to_surface(
            calibrate=_made_up if _quantizes_as_nodes(target) else None,
            decide=lambda: decider(source, target, scheme_map),
        )
        failures = pipeline.failures
    nodes = sum(1 for _ in pipeline.model.graph.all_nodes())
    return Checked(source, target, as_is, nodes, tuple(failures), tuple(pipeline.unused_permissions))


def _made_up(activations: Sequence[str]) -> dict[str, ActivationRange]:
    return dict.fromkeys(activations, ActivationRange(-1.0, 1.0))


def _quantizes_as_nodes(target: Target) -> bool:
    style = target.surface.quantization
    return target.quantizes_by_ranges and style is not None and style.carrier == "nodes"


def _judge_all(pipeline: Pipeline) -> list[Failure]:
    model = pipeline.model
    operator_set = pipeline.target.surface.operator_set
    opset = model.opset_imports.get("", 1)
    failures: list[Failure] = []
    for node in model.graph.all_nodes():
        verdict = check(node, operator_set, opset, pipeline.dims)
        if not isinstance(verdict, Illegal | Unknown):
            continue
        failure = failure_of(node, verdict)
        let_through = isinstance(verdict, Unknown) and node.op_type in pipeline.target.allow_unknown
        (pipeline.allowed if let_through else failures).append(failure)
    return failures
