"""Float convolutions and matrix products -> int8 ones, from ranges found beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from porting_kernels.errors import ShapeError
from porting_passes import provenance
from porting_passes.constants import constant_of
from porting_passes.keep_float import keep_float
from porting_passes.linear_operators import OPERATORS, Linear, linear_of
from porting_passes.quantization_parameters import (
    ActivationParameters,
    ActivationRange,
    WeightCodes,
    activation_parameters,
    quantize_weight,
    weight_absmax,
)
from porting_passes.quantization_style import QuantizationStyle
from porting_passes.splice import Names, ReplacementTape, splice

__all__ = ["ActivationRange", "KeptFloat", "QuantizeResult", "QuantizeStatic", "QuantizedNode", "quantizable"]

RULE = "quantize_static"


@dataclasses.dataclass(frozen=True)
class QuantizedNode:
    """What was done to one node, named by its output.

    weight_absmax: the range of the weight, one a channel or one element. bias: where it went; ``none`` without one.
    """

    output: str
    op_type: str
    activation: str
    weight: str
    channel_axis: int
    parameters: ActivationParameters
    weight_absmax: np.ndarray
    zero_channels: int
    tiny_channels: int
    bias: str


@dataclasses.dataclass(frozen=True)
class KeptFloat:
    """A convolution or matrix product that stays in float, and why. place: in the user's names."""

    output: str
    op_type: str
    place: str
    reason: str


@dataclasses.dataclass
class QuantizeResult(ir.passes.PassResult):
    """A pass result that also lists what was quantized and what was not, in the order of the graph."""

    quantized: list[QuantizedNode] = dataclasses.field(default_factory=list)
    kept: list[KeptFloat] = dataclasses.field(default_factory=list)


def quantizable(
    model: ir.Model, style: QuantizationStyle, exclude: Mapping[str, str] | None = None
) -> Iterator[tuple[ir.Node, Linear | str]]:
    """Every convolution and matrix product, as a Linear or with the reason it stays in float.

    exclude: output or node name -> reason. Those inside the bodies of If, Loop and Scan always stay.
    """
    for node in list(model.graph.all_nodes()):
        if node.domain in ("", "ai.onnx") and node.op_type in (*OPERATORS, "ConvTranspose"):
            if node.graph is not model.graph:
                yield node, "inside the body of a control-flow operator, where activations are not calibrated"
            else:
                yield node, _judge(node, style, exclude or {}, model.opset_imports.get("", 1))


def _judge(node: ir.Node, style: QuantizationStyle, exclude: Mapping[str, str], opset: int) -> Linear | str:
    for name in (node.outputs[0].name, node.name):
        if name and name in exclude:
            return exclude[name]
    if node.op_type not in style.operators:
        return f"the surface has no int8 {node.op_type}"
    linear = linear_of(node)
    if isinstance(linear, str):
        return linear
    keep = keep_float(node, style, opset)
    return linear if keep is None else f"{keep.reason} [source: {keep.source}]"


class QuantizeStatic(ir.passes.InPlacePass):
    """Conv, Gemm, MatMul with a constant weight  ->  Quantize, IntegerConv or IntegerMatMul, Dequantize.

    1. The style has the operator and a range is known: quantize. An activation with several consumers is quantized
       once. Weights are symmetric; alpha of Gemm goes into the scale of Dequantize. The value that replaces the
       node's output is equal to it in provenance.
    2. Bias: a constant of one element a channel becomes int32 in the accumulator's scale where the style says so and
       it fits; otherwise it is added in float behind Dequantize.
    3. Anything else stays in float, with a reason: weights computed at run time or not finite, excluded nodes,
       operators or forms that the style keeps in float, activations without a range.

    ranges: activation value name -> range. weight_absmax: output name -> greatest magnitudes (one a channel, or one),
    where they are given and not taken from the weight (ShapeError for another number of them). exclude: output or node
    name -> reason.
    Composite operators are added to the model without bodies; see :func:`porting_passes.operators.add_bodies`.
    """

    def __init__(
        self,
        ranges: Mapping[str, ActivationRange],
        style: QuantizationStyle,
        *,
        weight_absmax: Mapping[str, np.ndarray] | None = None,
        exclude: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._ranges = ranges
        self._style = style
        self._weight_absmax = weight_absmax or {}
        self._exclude = exclude or {}

    def call(self, model: ir.Model) -> QuantizeResult:
        """Quantize in place."""
        result = QuantizeResult(model, False)
        work = _Work(model, self._style)
        # Each node is judged when its turn comes: its activation may be a value that has just replaced another.
        for node, linear in quantizable(model, self._style, self._exclude):
            if isinstance(linear, Linear) and linear.activation.name not in self._ranges:
                linear = f"no range is known for activation {linear.activation.name!r}"
            if isinstance(linear, Linear):
                range_ = self._ranges[linear.activation.name or ""]
                linear = work.quantize(linear, range_, self._weight_absmax.get(node.outputs[0].name or ""), result)
            if isinstance(linear, str):
                output = node.outputs[0]
                result.kept.append(KeptFloat(output.name or "", node.op_type, provenance.place(output), linear))
        result.modified = bool(result.quantized)
        return result


class _Work:
    """The state of one call: activations and weights that are quantized already."""

    def __init__(self, model: ir.Model, style: QuantizationStyle) -> None:
        self._model = model
        self._graph = model.graph
        self._style = style
        self._names = Names(model)
        self._activations: dict[ir.Value, tuple[ir.Value, ActivationParameters]] = {}
        self._weights: dict[tuple[ir.Value, int, bytes], tuple[ir.Value, WeightCodes]] = {}

    def quantize(
        self, linear: Linear, range_: ActivationRange, absmax: np.ndarray | None, result: QuantizeResult
    ) -> Linear | str:
        """Replace one node; the reason where it must stay."""
        node, output = linear.node, linear.node.outputs[0]
        weight = linear.weight.numpy().astype(np.float32)
        if not np.isfinite(weight).all():
            where = [int(i) for i in np.argwhere(~np.isfinite(weight))[0]]
            return f"the weight is not finite: {weight[tuple(where)]} at {where}"
        if absmax is None:
            granularity = self._style.weight_granularity(node.op_type, depthwise=linear.depthwise)
            absmax = weight_absmax(weight, linear.channel_axis, granularity)
        if absmax.size not in (1, linear.channels):
            raise ShapeError(
                "magnitudes that do not fit the weight",
                required=f"1 or {linear.channels}",
                met=absmax.size,
                where=provenance.place(output),
            )
        codes_value, codes = self._weight(linear, weight, absmax)
        quantized, parameters = self._activation(linear, range_)
        scale = (codes.steps * linear.alpha / parameters.multiplier).astype(np.float32)
        self._model.opset_imports.setdefault("porting", 1)

        tape = ReplacementTape()
        bias, form = self._integer_bias(linear, scale)
        integer_bias = tape.constant(bias, f"{output.name}/bias")
        operands = (quantized, codes_value, integer_bias)
        if node.op_type == "Conv":
            acc = tape.IntegerConv(*operands, _domain="porting", **node.attributes, x_zero_point=parameters.offset)
            axis = 1
        else:
            acc = tape.IntegerMatMul(*operands, _domain="porting", a_zero_point=parameters.offset)
            axis = 1 if output.shape is None else len(output.shape) - 1
        dtype = output.dtype or linear.activation.dtype or ir.DataType.FLOAT
        acc.dtype, acc.shape = ir.DataType.INT32, output.shape
        scale_value = tape.constant(scale, f"{output.name}/scale")
        new = tape.Dequantize(acc, scale_value, _domain="porting", axis=axis, dtype=dtype.value)
        new.dtype, new.shape = dtype, output.shape
        if form == "float":
            new = tape.Add(new, self._float_bias(linear, tape))
        splice(self._graph, node, [node], [output], tape, [new], RULE, self._names)
        self._drop_unused(linear.weight_value, linear.bias)
        result.quantized.append(
            QuantizedNode(
                output=output.name or "",
                op_type=node.op_type,
                activation=linear.activation.name or "",
                weight=linear.weight_value.name or "",
                channel_axis=linear.channel_axis,
                parameters=parameters,
                weight_absmax=absmax,
                zero_channels=codes.zero_channels,
                tiny_channels=codes.tiny_channels,
                bias=form,
            )
        )
        return linear

    def _activation(self, linear: Linear, range_: ActivationRange) -> tuple[ir.Value, ActivationParameters]:
        """The quantized activation; a new Quantize stands before its first consumer."""
        x = linear.activation
        if x not in self._activations:
            parameters = activation_parameters(range_, self._style.activation, self._style.parameters)
            attributes = {"scale": parameters.multiplier, "offset": parameters.offset}
            node = ir.node("Quantize", [x], attributes, domain="porting", name=self._names.unique(f"{x.name}/Quantize"))
            (y,) = node.outputs
            y.name, y.type, y.shape = (
                self._names.unique(f"{x.name}/quantized"),
                ir.TensorType(ir.DataType.INT8),
                x.shape,
            )
            provenance.inherit(y, [x], RULE)
            self._graph.insert_before(linear.node, [node])
            self._activations[x] = (y, parameters)
        return self._activations[x]

    def _weight(self, linear: Linear, weight: np.ndarray, absmax: np.ndarray) -> tuple[ir.Value, WeightCodes]:
        """The quantized weight; matrices are stored (K, N)."""
        key = (linear.weight_value, linear.channel_axis, absmax.tobytes())
        if key not in self._weights:
            codes = quantize_weight(weight, linear.channel_axis, absmax, self._style.parameters)
            stored = codes.codes
            if linear.node.op_type == "Gemm" and linear.channel_axis == 0:
                stored = np.ascontiguousarray(stored.T)
            name = self._names.unique(f"{linear.weight_value.name}/int8")
            value = ir.Value(
                name=name,
                type=ir.TensorType(ir.DataType.INT8),
                shape=ir.Shape(stored.shape),
                const_value=ir.tensor(stored, name=name),
            )
            provenance.inherit(value, [linear.weight_value], RULE)
            self._graph.register_initializer(value)
            self._weights[key] = (value, codes)
        return self._weights[key]

    def _integer_bias(self, linear: Linear, scale: np.ndarray) -> tuple[np.ndarray, str]:
        """The int32 bias (one zero where there is none) and the form that the bias takes: none, int32 or float."""
        none = np.zeros(1, np.int32)
        if linear.bias is None:
            return none, "none"
        tensor = constant_of(linear.bias)
        if self._style.bias == "float" or tensor is None or not _is_vector(tensor, linear.channels):
            return none, "float"
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            codes = np.rint(tensor.numpy().astype(np.float64).reshape(-1) * linear.beta / scale.astype(np.float64))
        if not np.isfinite(codes).all() or np.abs(codes).max() >= 2**30:
            # Half of the int32 range is left to the products.
            return none, "float"
        return np.broadcast_to(codes.astype(np.int32), (linear.channels,)).copy(), "int32"

    def _float_bias(self, linear: Linear, tape: ReplacementTape) -> ir.Value:
        """The bias in the form that broadcasts over the output, beta included."""
        bias = linear.bias
        assert bias is not None
        tensor = constant_of(bias)
        if tensor is not None and (linear.beta != 1 or linear.node.op_type == "Conv"):
            array = (tensor.numpy().astype(np.float64) * linear.beta).astype(tensor.dtype.numpy())
            if linear.node.op_type == "Conv":
                array = array.reshape(-1, *[1] * (len(linear.weight.shape) - 2))
            return tape.constant(ir.tensor(array, dtype=tensor.dtype), f"{bias.name}/float")
        if tensor is None and linear.beta != 1:
            factor = ir.tensor(np.asarray(linear.beta), dtype=bias.dtype or ir.DataType.FLOAT)
            bias = tape.Mul(bias, tape.constant(factor, f"{bias.name}/beta"))
        if linear.node.op_type == "Conv":
            columns = [-1, *[1] * (len(linear.weight.shape) - 2)]
            bias = tape.Reshape(bias, tape.constant(np.asarray(columns, np.int64), f"{linear.node.name}/columns"))
        return bias

    def _drop_unused(self, *values: ir.Value | None) -> None:
        for value in values:
            if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
                self._graph.initializers.pop(value.name or "", None)


def _is_vector(tensor: ir.TensorProtocol, channels: int) -> bool:
    """One element, or one a channel along the last axis."""
    shape = [int(n) for n in tensor.shape.numpy()]
    return tensor.size == 1 or (tensor.size == channels and shape[-1] == channels)
