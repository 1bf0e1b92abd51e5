"""How one surface of a backend wants static int8, as a value read from the backend's data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from porting_kernels.errors import PortingError

Granularity = Literal["tensor", "channel"]
Symmetry = Literal["symmetric", "asymmetric"]
BiasForm = Literal["int32", "float"]
ParameterForm = Literal["reciprocal_scale", "position_scale"]
Carrier = Literal["nodes", "ranges"]


class QuantizationStyleError(PortingError):
    """A quantization style in a backend's data that does not say what it must."""


@dataclasses.dataclass(frozen=True)
class KeepFloat:
    """Nodes that stay in float. when: a constraint (see ``constraints``) over the operands of the ONNX operator."""

    operator: str
    when: str
    reason: str
    source: str


@dataclasses.dataclass(frozen=True)
class QuantizationStyle:
    """What runs in int8, and what its parameters look like.

    operators: ONNX operator types with an int8 form; all others stay in float.
    activation: per tensor always; ``symmetric`` means offset 0, ``asymmetric`` that an offset is allowed.
    weight: granularity by operator type, weights being symmetric; ``depthwise`` replaces it for a convolution with
        one input channel a group. "channel" is the output channel.
    bias: ``int32`` with the accumulator's scale, or ``float`` added after dequantization.
    parameters: ``reciprocal_scale``, y = round(x * scale + offset); ``position_scale``,
        y = round(x * scale / 2**position + offset).
    carrier: ``nodes`` are inserted into the graph, or ``ranges`` (min, max) go beside a float graph.
    keep_float: exceptions, with reasons. sources: field -> where it is written.
    """

    operators: tuple[str, ...]
    activation: Symmetry
    weight: Mapping[str, Granularity]
    depthwise: Granularity
    bias: BiasForm
    parameters: ParameterForm
    carrier: Carrier
    keep_float: tuple[KeepFloat, ...] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checked: list[tuple[str, object, tuple[str, ...]]] = [
            ("activation", self.activation, get_args(Symmetry)),
            ("depthwise", self.depthwise, get_args(Granularity)),
            ("bias", self.bias, get_args(BiasForm)),
            ("parameters", self.parameters, get_args(ParameterForm)),
            ("carrier", self.carrier, get_args(Carrier)),
        ]
        checked += [(f"weight.{op}", granularity, get_args(Granularity)) for op, granularity in self.weight.items()]
        for name, value, allowed in checked:
            if value not in allowed:
                required = " or ".join(allowed)
                raise QuantizationStyleError(f"quantization style: bad {name}", required=required, met=value)
        if missing := [op for op in self.operators if op not in self.weight]:
            raise QuantizationStyleError("quantization style: operators without a weight granularity", met=missing)

    def weight_granularity(self, op_type: str, *, depthwise: bool = False) -> Granularity:
        """The granularity of the weight of one of ``operators``."""
        return self.depthwise if depthwise else self.weight[op_type]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> QuantizationStyle:
        """From the ``quantization`` object of a surface."""
        fields = dict(data)
        fields["operators"] = tuple(fields["operators"])
        fields["keep_float"] = tuple(KeepFloat(**entry) for entry in fields.get("keep_float", ()))
        return cls(**fields)
