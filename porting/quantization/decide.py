"""The plan of a quantization as passes ask for it: what becomes of the weight of one product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import onnx_ir as ir

from porting.frontends import Source
from porting.quantization.plan import plan_quantization
from porting.quantization.quantized_weight import quantize_weight
from porting.quantization.scheme_map import SchemeMap
from porting.quantization.smooth_norms import Smoothed
from porting.target import Target
from porting.weights.view import WeightView
from porting_passes import provenance
from porting_passes.quantize_dynamic import Decide, IntegerWeight, LinearWeight

_BITS = {"int8_token": 8, "float": None}
_WEIGHT = ".weight"


def decider(
    source: Source,
    target: Target,
    scheme_map: SchemeMap | None = None,
    smoothed: Mapping[ir.Value, Smoothed] | None = None,
) -> Decide:
    """The scheme of ``target`` for the weights of ``source``, by the names under which they are stored.

    smoothed: weights behind normalizations that were divided, with what they are to be multiplied by.
    Raises UsageError for a scheme or a map that does not fit the source; see ``plan_quantization``. Reads no weight:
    codes and scales are made by whoever reads them.
    """
    plan = plan_quantization(
        stored_shapes(source.model),
        scheme=target.scheme,
        runtime=target.surface.name,
        family=source.family,
        scheme_map=scheme_map,
    )

    def decide(linear: LinearWeight) -> IntegerWeight | str:
        factors = (smoothed or {}).get(linear.value)
        decision = plan.decision(_names(linear))
        if factors is not None and (decision is None or decision.spec is None):
            linear.value.const_value = cast(ir.TensorProtocol, factors.float_weight())
        if decision is None:
            return "not the weight of a linear layer"
        if decision.spec is None:
            return f"{decision.reason} [source: {decision.source}]"
        columns = None if factors is None else factors.columns
        weight = quantize_weight(linear.tensor, decision.spec, column_factors=columns, name=linear.value.name)
        return IntegerWeight(
            cast(ir.TensorProtocol, weight.codes),
            cast(ir.TensorProtocol, weight.scale),
            weight_bits=decision.spec.bits,
            activation_bits=_BITS[decision.activation],
            reason=decision.reason,
        )

    return decide


def stored_shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Shapes of a checkpoint's tensors by the names in its files; of another model's weights by their own names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, WeightView):
            shapes |= {entry.name: entry.shape for entry in tensor.entries}
        elif tensor is not None and len(tensor.shape) > 1:
            shapes[_as_weight(str(value.name))] = tuple(int(n) for n in tensor.shape.numpy())
    return shapes


def _names(linear: LinearWeight) -> list[str]:
    if isinstance(linear.tensor, WeightView):
        return [entry.name for entry in linear.tensor.entries]
    return [_as_weight(name) for name in provenance.of(linear.value).sources] or [_as_weight(str(linear.value.name))]


def _as_weight(name: str) -> str:
    return name if name.endswith(_WEIGHT) else name + _WEIGHT
