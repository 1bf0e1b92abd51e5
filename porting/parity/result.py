"""What was measured and judged: the object behind ``parity.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from porting.parity import evidence
from porting.parity.attribution import Effect
from porting.parity.decoder_layers import DecoderLayer
from porting.parity.evidence import Statistics
from porting.parity.experts import Routing
from porting.parity.fidelity import Fidelity
from porting.parity.language import LanguageMetrics
from porting.parity.layers import Layer
from porting.parity.metrics import Metrics, significant
from porting.parity.verdict import Check, Inputs, Verdict

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Parity:
    """One measurement.

    outputs: the judged simulation against the reference; outputs_exact: the same with exact numerics.
    language: outputs that are logits over the next token; replayed: the same against the reference with the port's
    experts, where any differ. routing: of a model with experts. decoder_layers: of a language model.
    interpreter: our interpreter on the source against the independent reference (empty without one).
    effects: what each numerics line does. layers: both views. statistics: of the reference, for ``evidence/``.
    """

    verdict: Verdict
    reasons: Sequence[str]
    inputs: Inputs
    samples: int
    source: str
    backend: str
    surface: str
    scheme: str
    dtype: str
    numerics: str
    reference: str
    budget: Mapping[str, Any]
    outputs: Mapping[str, Metrics]
    outputs_exact: Mapping[str, Metrics]
    output_dtypes: Mapping[str, str]
    language: Mapping[str, LanguageMetrics]
    interpreter: Mapping[str, Metrics]
    fidelity: Fidelity
    effects: Sequence[Effect]
    layers: Sequence[Layer]
    checks: Sequence[Check]
    statistics: Mapping[str, Statistics]
    replayed: Mapping[str, LanguageMetrics] = dataclasses.field(default_factory=dict)
    routing: Routing | None = None
    decoder_layers: Sequence[DecoderLayer] = ()

    def to_json(self) -> dict[str, Any]:
        """``parity.json``: no times, no paths; floats of nine significant digits."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "inputs": self.inputs,
            "samples": self.samples,
            "source": self.source,
            "backend": self.backend,
            "surface": self.surface,
            "scheme": self.scheme,
            "dtype": self.dtype,
            "numerics": self.numerics,
            "reference": self.reference,
            "budget": self.budget,
            "outputs": [{**entry, **self._language(entry["name"])} for entry in self._outputs(self.outputs)],
            "outputs_exact": self._outputs(self.outputs_exact),
            "interpreter": self._outputs(self.interpreter),
            "fidelity": self.fidelity.to_json(),
            "numerics_lines": [effect.to_json() for effect in self.effects],
            "layers": [layer.to_json() for layer in self.layers],
            "routing": None if self.routing is None else self.routing.to_json(),
            "decoder_layers": [layer.to_json() for layer in self.decoder_layers],
            "overflows": self._overflows(),
            "checks": [check.to_json() for check in self.checks],
        }

    def _language(self, name: str) -> dict[str, Any]:
        """What the entry of an output that holds logits has beside the others; empty for any other."""
        if name not in self.language:
            return {}
        replayed = self.replayed.get(name)
        return {**self.language[name].to_json(), "replayed": None if replayed is None else replayed.to_json()}

    def evidence(self) -> dict[str, Any]:
        """``evidence/reference.json``."""
        return evidence.document(self.statistics, self.samples)

    def _outputs(self, outputs: Mapping[str, Metrics]) -> list[dict[str, Any]]:
        return [{"name": n, "dtype": self.output_dtypes[n], **m.to_json()} for n, m in outputs.items()]

    def _overflows(self) -> list[dict[str, Any]]:
        return [
            {
                "name": layer.anchor.source,
                "place": layer.anchor.place,
                "dtype": layer.dtype,
                "elements": layer.accumulated.overflows,
                "reference_max": significant(layer.accumulated.reference_max),
                "limit": layer.limit,
                "starts_here": layer.overflow_starts_here,
            }
            for layer in self.layers
            if layer.overflows and layer.limit is not None
        ]
