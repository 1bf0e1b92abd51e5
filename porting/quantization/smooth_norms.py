"""Smoothing folded into the normalizations of a model: found, measured on calibration data, and divided."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir
import torch

from porting.errors import InvalidInputError
from porting.parity.sampling import Sample, fit, in_order
from porting.quantization.scaled_weight import ScaledWeight
from porting.quantization.smoothing import ALPHA, column_absmax, divided_norm, smoothing_factors
from porting.simulation.interpreter import Interpreter
from porting_kernels import dtypes
from porting_passes import provenance
from porting_passes.smoothable import Reader, SmoothGroup, smooth_groups
from porting_passes.splice import Names

RULE = "smooth_norms"


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """A weight behind a divided normalization. columns: float32 (K,), what its input channels are multiplied by."""

    reader: Reader
    columns: torch.Tensor

    def float_weight(self) -> ScaledWeight:
        """The weight for a product that stays in float, in its own layout."""
        return ScaledWeight(self.reader.tensor, self.columns, axis=self.reader.axis)


def smooth_norms(
    model: ir.Model, samples: Iterable[Sample], *, alpha: float = ALPHA, memory: int | None = None, threads: int = 1
) -> dict[ir.Value, Smoothed]:
    """Divide the weights of normalizations in place; the weights behind them, with what makes up for it.

    model: float32, in composite operators, before quantization. Every group of ``smooth_groups`` gets factors from the
    greatest magnitudes of its activation over ``samples`` and of its weights, which are read once for that; they are
    powers of two, so that the model computes what it did. memory: bytes of weights that the runs keep.
    Raises UsageError for alpha outside 0 to 1, InvalidInputError for activations that are not finite and no samples.
    """
    groups = list(smooth_groups(model))
    largest = _column_maxima(model, groups, samples, memory, threads)
    smoothed: dict[ir.Value, Smoothed] = {}
    names = Names(model)
    for group in groups:
        weights = column_absmax(reader.output_first for reader in group.readers)
        factors = smoothing_factors(largest[group.result.name or ""], weights, alpha=alpha)
        _divide(model.graph, group, factors, names)
        smoothed |= {reader.value: Smoothed(reader, factors) for reader in group.readers}
    return smoothed


def _column_maxima(
    model: ir.Model, groups: list[SmoothGroup], samples: Iterable[Sample], memory: int | None, threads: int
) -> dict[str, torch.Tensor]:
    """The greatest magnitude of each column of every group's activation, by its name."""
    interpreter, wanted = Interpreter(model, memory=memory), {group.result.name or "" for group in groups}

    def one(sample: Sample) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}

        def tap(value: ir.Value, tensor: torch.Tensor) -> None:
            rows = tensor.abs().reshape(-1, tensor.shape[-1])
            found[value.name or ""] = rows.amax(0) if len(rows) else torch.zeros(tensor.shape[-1])

        interpreter.run(fit(model, sample), tap=tap, wanted=wanted)
        return found

    merged: dict[str, torch.Tensor] = {}
    for found in in_order(one, samples, threads):
        for name, maxima in found.items():
            merged[name] = torch.maximum(merged[name], maxima) if name in merged else maxima
    if groups and not merged:
        raise InvalidInputError("no samples to smooth by", required="at least one")
    return merged


def _divide(graph: ir.Graph, group: SmoothGroup, factors: torch.Tensor, names: Names) -> None:
    """Give the normalization a weight of its own; others may share the old one."""
    tensor = group.weight.const_value
    assert tensor is not None
    divided = divided_norm(dtypes.to_torch(tensor.numpy()), factors)
    name = names.unique(f"{group.weight.name}/smoothed")
    value = ir.Value(name=name, shape=group.weight.shape, type=group.weight.type)
    value.const_value = ir.tensor(dtypes.to_numpy(divided), name=name)
    provenance.inherit(value, [group.weight], RULE)
    graph.register_initializer(value)
    group.norm.replace_input_with(len(group.norm.inputs) - 1, value)
    if not (group.weight.uses() or group.weight.is_graph_output()):
        graph.initializers.pop(group.weight.name or "", None)
    _no_longer_equal(group)


def _no_longer_equal(group: SmoothGroup) -> None:
    """What the normalization gives, and whatever moves its rows about, is not the source's value any more.

    Behind the products it is again.
    """
    weights = {reader.value for reader in group.readers}
    pending = [group.result]
    while pending:
        value = pending.pop()
        origin = provenance.of(value)
        rules = tuple(dict.fromkeys((*origin.rules, RULE)))
        provenance.set_(value, dataclasses.replace(origin, equal=False, rules=rules))
        for node, _ in value.uses():
            if weights.isdisjoint(node.inputs):
                pending += [out for out in node.outputs if out.dtype == value.dtype and RULE not in _rules(out)]


def _rules(value: ir.Value) -> tuple[str, ...]:
    return provenance.of(value).rules
