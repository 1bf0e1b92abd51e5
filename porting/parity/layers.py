"""The ported model against its source, value by value, in two views.

*Accumulated*: the ported model runs from its inputs, and every anchor carries all the error made before it.
*Isolated*: every anchor is compared and then replaced by the reference's value, so that each layer is fed reference
inputs and shows its own error only. The inputs it is fed are rounded to the port's format; the reference of this view
is computed from the same rounded values, so that what is measured is the layer's arithmetic and not how steep its
function is (exp of 10 in float16 differs by 0.4 % through the rounding of its input alone).

One sample is in memory at a time, and of the reference only the anchors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from porting.parity.anchors import Anchor
from porting.parity.evidence import Statistics
from porting.parity.metrics import Accumulator, Metrics
from porting.parity.products import Spread, SpreadSums, quantized
from porting.parity.sampling import Sample, fit, saturated
from porting.simulation.interpreter import Interpreter
from porting.simulation.weight_cache import WeightCache
from porting_kernels.numerics import EXACT, Numerics

Values = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Layer:
    """One anchor with both views. dtype: of the ported value, in ONNX's lower-case words.

    quantized: whether it multiplies with integer weights or computes with integer codes. spread: of a floating result,
    in the isolated view.
    """

    anchor: Anchor
    dtype: str
    accumulated: Metrics
    isolated: Metrics | None
    quantized: bool = False
    spread: Spread | None = None

    @property
    def limit(self) -> float | None:
        """Largest finite magnitude of the ported value's format; None for integers."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return torch.finfo(dtype).max if dtype.is_floating_point else None

    @property
    def overflows(self) -> bool:
        """True where the reference is finite and the port is not."""
        return self.accumulated.overflows > 0

    @property
    def overflow_starts_here(self) -> bool:
        """True where the port overflows even when it is fed reference inputs."""
        return self.isolated is not None and self.isolated.overflows > 0

    def to_json(self) -> dict[str, Any]:
        """The layer's entry in ``parity.json``."""
        origin = self.anchor.origin
        return {
            "name": self.anchor.source,
            "value": self.anchor.value,
            "node": self.anchor.node,
            "operator": self.anchor.op_type,
            "ported_operator": self.anchor.ported_op_type,
            "module": origin.module,
            "class": origin.class_name,
            "file": origin.file,
            "line": origin.line,
            "rules": list(origin.rules),
            "dtype": self.dtype,
            "accumulated": self.accumulated.to_json(),
            "isolated": None if self.isolated is None else self.isolated.to_json(),
            "quantized": self.quantized,
            "spread": None if self.spread is None else self.spread.to_json(),
        }


@dataclasses.dataclass
class LayerSums:
    """What one sample (or several, merged) adds to the layers, by source name. statistics: of the reference."""

    accumulated: dict[str, Accumulator] = dataclasses.field(default_factory=dict)
    isolated: dict[str, Accumulator] = dataclasses.field(default_factory=dict)
    spread: dict[str, SpreadSums] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = dataclasses.field(default_factory=dict)
    statistics: dict[str, Statistics] = dataclasses.field(default_factory=dict)

    def merge(self, other: LayerSums) -> None:
        """Add another sample."""
        for mine, theirs in ((self.accumulated, other.accumulated), (self.isolated, other.isolated)):
            for name, sums in theirs.items():
                mine.setdefault(name, Accumulator()).merge(sums)
        for name, spread in other.spread.items():
            self.spread.setdefault(name, SpreadSums()).merge(spread)
        for name, statistics in other.statistics.items():
            self.statistics.setdefault(name, Statistics()).merge(statistics)
        self.dtypes.update(other.dtypes)


@dataclasses.dataclass(frozen=True)
class Run:
    """One sample through both models: sums, inputs as each takes them, outputs, and the values that were asked for.

    expected: the interpreter on the source. simulated: the port, accumulated.
    """

    sums: LayerSums
    source_inputs: Values
    ported_inputs: Values
    expected: Values
    simulated: Values
    reference: Values
    ported: Values


class LayerComparison:
    """Compares the anchors of a ported model for one sample at a time; holds no state of a run.

    sets: source values whose last axis holds a set, in any order: the experts of a router.
    """

    def __init__(
        self,
        source: ir.Model,
        ported: ir.Model,
        anchors: Sequence[Anchor],
        *,
        numerics: Numerics = EXACT,
        reference_numerics: Numerics = EXACT,
        isolated: bool = True,
        sets: Collection[str] = (),
        memory: WeightCache | None = None,
    ) -> None:
        self._source, self._ported, self._sets = source, ported, frozenset(sets)
        self.reference = Interpreter(source, numerics=reference_numerics, memory=memory)
        self.simulation = Interpreter(ported, numerics=numerics, memory=memory)
        self._isolated = isolated
        self._computed = [a for a in anchors if a.op_type is not None]
        self._by_value = {a.value: a for a in self._computed}
        self._quantized = quantized(ported, anchors)
        # Casts right behind the graph inputs: no layers, but they say to what the port rounds its inputs.
        self._input_casts = {a.value: a.source for a in anchors if a.op_type is None}

    @property
    def layers(self) -> Sequence[Anchor]:
        """The anchors that are computed by a node of the source, in the order of the ported model."""
        return self._computed

    def run(self, sample: Sample, *, source_values: Collection[str] = (), ported_values: Collection[str] = ()) -> Run:
        """Both views of one sample. source_values, ported_values: names of further values to keep."""
        sums = LayerSums()
        source_inputs, ported_inputs = fit(self._source, sample), fit(self._ported, sample)
        values, reference_outputs = self._reference_values(source_inputs, {}, source_values)
        kept = {name: values[name] for name in source_values if name in values}
        for name in (anchor.source for anchor in self._computed if anchor.source in values):
            sums.statistics[name] = Statistics()
            sums.statistics[name].update(values[name])
        kept_ported: Values = {}
        outputs, input_dtypes = self._accumulate(ported_inputs, values, sums, kept_ported, ported_values)
        if self._isolated:
            rounding = {name: dtype for name, dtype in sums.dtypes.items() if values[name].dtype != dtype}
            to_round = {name: dtype for name, dtype in input_dtypes.items() if source_inputs[name].dtype != dtype}
            if rounding or to_round:
                rounded = {
                    name: _rounded(tensor, to_round.get(name, tensor.dtype)) for name, tensor in source_inputs.items()
                }
                values.clear()
                values, _ = self._reference_values(rounded, rounding)
            self._isolate(ported_inputs, values, sums)
        return Run(sums, source_inputs, ported_inputs, reference_outputs, outputs, kept, kept_ported)

    def _reference_values(
        self, inputs: Mapping[str, torch.Tensor], rounding: Mapping[str, torch.dtype], more: Collection[str] = ()
    ) -> tuple[Values, Values]:
        """Anchors, more values by name, and outputs of the source. rounding: what is passed on is rounded to these."""
        values: Values = {}

        def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
            name = value.name or ""
            values[name] = tensor
            return _rounded(tensor, rounding[name]) if name in rounding else None

        outputs = self.reference.run(inputs, tap=tap, wanted={*more, *(a.source for a in self._computed)})
        return values, outputs

    def _accumulate(
        self,
        inputs: Values,
        values: Mapping[str, torch.Tensor],
        sums: LayerSums,
        kept: Values,
        more: Collection[str],
    ) -> tuple[Values, dict[str, torch.dtype]]:
        input_dtypes = {name: tensor.dtype for name, tensor in inputs.items()}

        def tap(value: ir.Value, tensor: torch.Tensor) -> None:
            name = value.name or ""
            if name in more:
                kept[name] = tensor
            cast = self._input_casts.get(name)
            if cast is not None:
                input_dtypes[cast] = tensor.dtype
                return
            anchor = self._by_value.get(name)
            if anchor is not None and self._add(sums.accumulated, anchor, values, tensor):
                sums.dtypes[anchor.source] = tensor.dtype

        wanted = {*more, *self._by_value, *self._input_casts}
        return self.simulation.run(inputs, tap=tap, wanted=wanted), input_dtypes

    def _isolate(self, inputs: Values, values: Mapping[str, torch.Tensor], sums: LayerSums) -> None:
        def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
            anchor = self._by_value[value.name or ""]
            if not self._add(sums.isolated, anchor, values, tensor):
                return None
            if tensor.is_floating_point():
                sums.spread.setdefault(anchor.source, SpreadSums()).update(values[anchor.source], tensor)
            return saturated(values[anchor.source], tensor.dtype)

        self.simulation.run(inputs, tap=tap, wanted=self._by_value)

    def _add(
        self, sums: dict[str, Accumulator], anchor: Anchor, values: Mapping[str, torch.Tensor], tensor: torch.Tensor
    ) -> bool:
        """Compare; False when the reference has no tensor of that name (a sequence)."""
        if anchor.source not in values:
            return False
        expected = values[anchor.source]
        if anchor.source in self._sets:
            expected, tensor = (x.to(torch.int64).sort(dim=-1).values for x in (expected, tensor))
        accumulator = sums.setdefault(anchor.source, Accumulator())
        accumulator.update(expected, tensor, where=f"{anchor.source} ({anchor.place})")
        return True

    def result(self, sums: LayerSums) -> list[Layer]:
        """The layers of all merged samples, in the order of the ported model."""
        return [
            Layer(
                anchor=anchor,
                dtype=str(sums.dtypes[anchor.source]).removeprefix("torch."),
                accumulated=sums.accumulated[anchor.source].metrics(),
                isolated=sums.isolated[anchor.source].metrics() if anchor.source in sums.isolated else None,
                quantized=anchor.value in self._quantized,
                spread=sums.spread[anchor.source].spread() if anchor.source in sums.spread else None,
            )
            for anchor in self._computed
            if anchor.source in sums.accumulated
        ]


def _rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor with its values rounded to ``dtype`` and its own dtype kept."""
    return saturated(tensor, dtype).to(tensor.dtype)
