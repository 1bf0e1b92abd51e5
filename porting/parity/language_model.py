"""A language model beside its reference: distributions, routing with its replay, and decoder layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch

from porting.parity import decoder_layers, routing
from porting.parity.anchors import Anchor
from porting.parity.attribution import compare, merge_all
from porting.parity.decoder_layers import DecoderLayerComparison, DecoderLayerSums
from porting.parity.experts import RouterSums
from porting.parity.language import IDS, LOGITS, LanguageSums
from porting.parity.layers import LayerComparison, Run
from porting.parity.metrics import Accumulator
from porting.parity.replay import Replayed, replay
from porting.parity.routing import Router

Values = Mapping[str, torch.Tensor]


@dataclasses.dataclass
class LanguageModelSums:
    """What one sample (or several, merged) adds.

    free: the port against the reference. replayed, replayed_outputs: against the reference with the port's experts.
    routers: by the router's ``ids``.
    """

    free: LanguageSums = dataclasses.field(default_factory=LanguageSums)
    replayed: LanguageSums = dataclasses.field(default_factory=LanguageSums)
    replayed_outputs: dict[str, Accumulator] = dataclasses.field(default_factory=dict)
    routers: dict[str, RouterSums] = dataclasses.field(default_factory=dict)
    layers: DecoderLayerSums = dataclasses.field(default_factory=DecoderLayerSums)

    def merge(self, other: LanguageModelSums) -> None:
        """Add another sample."""
        self.free.merge(other.free)
        self.replayed.merge(other.replayed)
        merge_all(self.replayed_outputs, other.replayed_outputs)
        for name, sums in other.routers.items():
            self.routers.setdefault(name, RouterSums(sums.experts)).merge(sums)
        self.layers.merge(other.layers)


class LanguageModelComparison:
    """Compares a port of a language model, one sample at a time; holds no state of a run.

    source: the unrewritten import. layers: runs both models. tolerance: relative error of a router's logits up to which
    a flip may be a near tie.
    """

    def __init__(
        self,
        source: ir.Model,
        ported: ir.Model,
        anchors: Sequence[Anchor],
        routers: Sequence[Router],
        layers: LayerComparison,
        *,
        tolerance: float,
    ) -> None:
        self._reference = layers.reference
        self._tolerance = tolerance
        self.routers = routers
        self._aligned = [router for router in routers if router.ported_ids is not None]
        found = decoder_layers.boundaries(source, anchors)
        self.layers = DecoderLayerComparison(ported, layers.simulation, found, anchors, self._aligned)

    @property
    def source_values(self) -> set[str]:
        """Source values that :meth:`run` needs."""
        return self.layers.reference_values | {name for r in self._aligned for name in (r.logits, r.ids)}

    @property
    def ported_values(self) -> set[str]:
        """Ported values that :meth:`run` needs."""
        own = {name for r in self._aligned for name in (r.ported_logits, r.ported_ids) if name is not None}
        return own | self.layers.ported_values

    def run(self, sample: Run, expected: Values) -> LanguageModelSums:
        """One sample that was run with the values above. expected: outputs of the independent reference."""
        sums = LanguageModelSums()
        ids = sample.source_inputs[IDS]
        sums.free.update(expected[LOGITS], sample.simulated[LOGITS], ids)
        choices = {r.ids: sample.ported[r.ported_ids or ""].to(torch.int64) for r in self._aligned}
        for router in self._aligned:
            counted = sums.routers[router.ids] = RouterSums(router.experts)
            own = sample.reference[router.ids]
            counted.observe(router, sample.reference[router.logits], own, choices[router.ids])
        again = self._replayed(sample, choices, any(counted.differ for counted in sums.routers.values()))
        for router in self._aligned:
            sums.routers[router.ids].decide(
                router,
                sample.reference[router.logits] if again is None else again.logits[router.ids],
                sample.ported[router.ported_logits] if router.ported_logits is not None else None,
                choices[router.ids],
                sequence=ids.shape[-1],
                tolerance=self._tolerance,
            )
        outputs = expected if again is None else again.outputs
        sums.replayed.update(outputs[LOGITS], sample.simulated[LOGITS], ids)
        sums.replayed_outputs = compare(outputs, sample.simulated)
        forced = {} if again is None else again.kept
        sums.layers = self.layers.run(sample.ported_inputs, sample.reference, sample.ported, forced)
        return sums

    def _replayed(self, sample: Run, choices: Values, differs: bool) -> Replayed | None:
        """The replay; None where nothing would be forced."""
        if not differs:
            return None
        keep = {b.anchor.source for b in self.layers.boundaries if b.last}
        return replay(self._reference, sample.source_inputs, self._aligned, choices, keep=keep)


def routers_of(source: ir.Model, anchors: Sequence[Anchor]) -> list[Router]:
    """The routers of a source; none where it has no experts."""
    return routing.find(source, anchors) if any(node.op_type == "TopK" for node in source.graph) else []
