"""Decoder layers, by the module path of the user's model: what each of them gives to the next.

*accumulated*: the port runs from its inputs. *forced*: the same against a reference that took the port's experts (see
``replay``), so without what earlier flips of routing brought in. *isolated*: the port's layer is fed what the reference
feeds it, in the port's format, and takes the reference's experts where it would choose others; how often that was is
counted. What a layer hands over are its floating-point results that a later module reads: the residual stream.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from porting.parity.anchors import Anchor
from porting.parity.forcing import Forcing
from porting.parity.metrics import Accumulator, Metrics
from porting.parity.routing import Router
from porting.parity.sampling import saturated
from porting.simulation.interpreter import Interpreter
from porting_passes import provenance

Values = Mapping[str, torch.Tensor]
_LAYER = re.compile(r"((?:[^.]+\.)*?[^.]+\.\d+)(?:\.|$)")


def layer_of(module: str | None) -> str | None:
    """``model.layers.3`` of ``model.layers.3.mlp.experts.0``: up to the first number of a module path."""
    found = _LAYER.match(module or "")
    return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A value that one layer hands over. last: whether it is the layer's last, by which the layer is judged."""

    layer: str
    anchor: Anchor
    last: bool


@dataclasses.dataclass
class DecoderLayerSums:
    """Sums by layer. flips: decisions that fell otherwise although the layer was fed reference inputs."""

    accumulated: dict[str, Accumulator] = dataclasses.field(default_factory=dict)
    forced: dict[str, Accumulator] = dataclasses.field(default_factory=dict)
    isolated: dict[str, Accumulator] = dataclasses.field(default_factory=dict)
    flips: dict[str, int] = dataclasses.field(default_factory=dict)

    def merge(self, other: DecoderLayerSums) -> None:
        """Add another sample."""
        for view in ("accumulated", "forced", "isolated"):
            for layer, sums in getattr(other, view).items():
                getattr(self, view).setdefault(layer, Accumulator()).merge(sums)
        for layer, count in other.flips.items():
            self.flips[layer] = self.flips.get(layer, 0) + count


@dataclasses.dataclass(frozen=True)
class DecoderLayer:
    """The three views of one layer. value: the source value that is compared."""

    module: str
    value: str
    accumulated: Metrics
    forced: Metrics
    isolated: Metrics
    flips: int

    def to_json(self) -> dict[str, Any]:
        """The entry of ``decoder_layers`` in ``parity.json``."""
        return {
            "module": self.module,
            "value": self.value,
            "accumulated": self.accumulated.to_json(),
            "forced": self.forced.to_json(),
            "isolated": self.isolated.to_json(),
            "flips": self.flips,
        }


def worst(layers: Sequence[DecoderLayer], count: int) -> list[DecoderLayer]:
    """The layers with the largest isolated error, worst first."""
    return sorted(layers, key=lambda layer: -layer.isolated.rel_l2)[:count]


def boundaries(source: ir.Model, anchors: Sequence[Anchor]) -> list[Boundary]:
    """The anchors of the values that layers hand over, in the order of the port."""
    crossing: dict[str, str] = {}
    for node in source.graph:
        for value in node.outputs:
            layer = layer_of(provenance.of(value).module)
            floating = value.dtype is not None and value.dtype.is_floating_point()
            if layer is None or not floating or node.op_type == "Constant":
                continue
            readers = {layer_of(provenance.of(reader.outputs[0]).module) for reader, _ in value.uses()}
            if readers - {layer}:
                crossing[value.name or ""] = layer
    found = [a for a in anchors if a.source in crossing]
    last = {crossing[a.source]: a.source for a in found}
    return [Boundary(crossing[a.source], a, last[crossing[a.source]] == a.source) for a in found]


class DecoderLayerComparison:
    """Compares decoder layers, one sample at a time; holds no state of a run."""

    def __init__(
        self,
        ported: ir.Model,
        simulation: Interpreter,
        found: Sequence[Boundary],
        anchors: Sequence[Anchor],
        routers: Sequence[Router],
    ) -> None:
        self._simulation = simulation
        self.boundaries = tuple(found)
        self._by_value = {b.anchor.value: b for b in found}
        self._routers = tuple(router for router in routers if router.can_be_forced)
        self._aside = _beside(ported, found, anchors)

    @property
    def reference_values(self) -> set[str]:
        """Source values that a run needs of the reference."""
        own = {b.anchor.source for b in self.boundaries} | set(self._aside.values())
        return own | {router.ids for router in self._routers}

    @property
    def ported_values(self) -> set[str]:
        """Ported values that a run needs of the port."""
        return set(self._by_value)

    def run(self, inputs: Values, reference: Values, ported: Values, forced: Values) -> DecoderLayerSums:
        """One sample. inputs: of the port. reference, forced: source values of the free run and of the replay;
        ported: ported values, all by name.
        """
        sums = DecoderLayerSums()
        for boundary in self.boundaries:
            name, value = boundary.anchor.source, boundary.anchor.value
            if boundary.last:
                _add(sums.accumulated, boundary, reference[name], ported[value])
                _add(sums.forced, boundary, forced.get(name, reference[name]), ported[value])
        self._isolate(inputs, reference, sums)
        return sums

    def _isolate(self, inputs: Values, reference: Values, sums: DecoderLayerSums) -> None:
        forcing = Forcing(self._routers, {r.ids: reference[r.ids] for r in self._routers}, "port")

        def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
            name = value.name or ""
            boundary = self._by_value.get(name)
            if boundary is not None:
                if boundary.last:
                    _add(sums.isolated, boundary, reference[boundary.anchor.source], tensor)
                return saturated(reference[boundary.anchor.source], tensor.dtype)
            if name in self._aside:
                return saturated(reference[self._aside[name]], tensor.dtype)
            return forcing.tap(name, tensor)

        self._simulation.run(inputs, tap=tap, wanted={*self._by_value, *self._aside, *forcing.wanted})
        for router in self._routers:
            layer = layer_of(router.module) or router.module
            sums.flips[layer] = sums.flips.get(layer, 0) + forcing.flips.get(router.ids, 0)

    def result(self, sums: DecoderLayerSums) -> list[DecoderLayer]:
        """The layers of all merged samples, in the order of the ported model."""
        return [
            DecoderLayer(
                module=b.layer,
                value=b.anchor.source,
                accumulated=sums.accumulated[b.layer].metrics(),
                forced=sums.forced[b.layer].metrics(),
                isolated=sums.isolated[b.layer].metrics(),
                flips=sums.flips.get(b.layer, 0),
            )
            for b in self.boundaries
            if b.last and b.layer in sums.isolated
        ]


def _beside(ported: ir.Model, found: Sequence[Boundary], anchors: Sequence[Anchor]) -> dict[str, str]:
    """Anchors of a later layer that the node of a boundary computes too, ported name to source name.

    A fused residual add and norm gives both from what it is fed by the layer before: to feed the next layer with
    reference values, both are replaced.
    """
    layers = {b.anchor.value: b.layer for b in found}
    by_value = {a.value: a for a in anchors}
    beside = {}
    for node in ported.graph:
        names = [value.name or "" for value in node.outputs]
        if not any(name in layers for name in names):
            continue
        for name in names:
            anchor = by_value.get(name)
            if name not in layers and anchor is not None and anchor.op_type is not None:
                beside[name] = anchor.source
    return beside


def _add(sums: dict[str, Accumulator], boundary: Boundary, reference: torch.Tensor, tensor: torch.Tensor) -> None:
    where = f"{boundary.anchor.source} ({boundary.layer})"
    sums.setdefault(boundary.layer, Accumulator()).update(reference, tensor, where=where)
