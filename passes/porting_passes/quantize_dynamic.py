"""Products with a weight -> the same with integer weights, and activations quantized while the model runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from porting_passes import provenance
from porting_passes.constants import constant_of
from porting_passes.node_facts import attribute
from porting_passes.quantize_static import KeptFloat
from porting_passes.splice import Names, ReplacementTape, splice
from porting_passes.turn_weight import turned

RULE = "quantize_dynamic"
QUANTIZED_NUMBERS = "porting.quantized_numbers"
"""Metadata of a product in float whose weight holds what a quantization has made of the numbers."""
_WEIGHT_AT = {"MatMul": 1, "Gemm": 1, "porting.GroupedMatmul": 1, "porting.MLAAttention": 4}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclasses.dataclass(frozen=True)
class LinearWeight:
    """The weight of a product. tensor: (N, K), or (E, N, K) for experts, output channels first; nothing is read.

    op_type: of the node that multiplies with it. place: in the user's names.
    """

    node: ir.Node
    value: ir.Value
    tensor: ir.TensorProtocol
    op_type: str
    place: str


@dataclasses.dataclass(frozen=True)
class IntegerWeight:
    """codes: int8 (N, K) or (E, N, K). scale: float32 (N,), (N, G), (E, N) or (E, N, G). weight_bits: 8 or 4.

    activation_bits: 8 where the rows that it multiplies are quantized too, None where they stay in float. smooth:
    float32 (K,), by which they are multiplied first; the codes are those of the weight divided by it. reason: in words.
    """

    codes: ir.TensorProtocol
    scale: ir.TensorProtocol
    weight_bits: int = 8
    activation_bits: int | None = 8
    smooth: np.ndarray | None = None
    reason: str = ""

    @property
    def group(self) -> int | None:
        """Columns under one scale, None for all of a row."""
        codes, scale = self.codes.shape.numpy(), self.scale.shape.numpy()
        return codes[-1] // scale[-1] if len(scale) == len(codes) else None


Decide = Callable[[LinearWeight], IntegerWeight | str]
"""What becomes of a weight, or the reason why it stays in float."""


@dataclasses.dataclass(frozen=True)
class QuantizedProduct:
    """One product that was quantized, named by its output. group: columns under one scale, None for all of them."""

    output: str
    op_type: str
    place: str
    weight_bits: int
    group: int | None
    activation_bits: int | None
    reason: str


@dataclasses.dataclass
class QuantizeDynamicResult(ir.passes.PassResult):
    """A pass result that also lists what was quantized and what was not, in the order of the graph."""

    quantized: list[QuantizedProduct] = dataclasses.field(default_factory=list)
    kept: list[KeptFloat] = dataclasses.field(default_factory=list)


def linear_weights(model: ir.Model) -> Iterator[LinearWeight]:
    """Every floating weight that a product of the main graph multiplies with, in the order of the graph."""
    for node in list(model.graph):
        product = product_weight(node)
        if product is not None:
            value, tensor, first = product
            tensor = tensor if first else turned(tensor, str(value.name))
            yield LinearWeight(node, value, tensor, node.op_type, provenance.place(node.outputs[0]))


def product_weight(node: ir.Node) -> tuple[ir.Value, ir.TensorProtocol, bool] | None:
    """The floating weight that a node multiplies with, and whether its output channels come first; None without one."""
    operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    value = node.inputs[_WEIGHT_AT[operator]] if operator in _WEIGHT_AT else None
    tensor = constant_of(value)
    if value is None or tensor is None or tensor.dtype not in _FLOATS or len(tensor.shape) < 2:
        return None
    return value, tensor, bool(attribute(node, {"Gemm": "transB"}.get(node.op_type, "transposed"), 0))


class QuantizeDynamic(ir.passes.InPlacePass):
    """MatMul, Gemm and GroupedMatmul with a constant weight -> DynamicQuantize and a quantized product.

    1. ``decide`` gives integers: the product takes them. With quantized activations that is QuantizedMatMul or
       QuantizedGroupedMatmul of the codes of a DynamicQuantize, which all products of one value share; otherwise
       WeightOnlyMatMul or WeightOnlyGroupedMatmul of the value itself.
    2. A constant bias of Gemm or GroupedMatmul goes along in float32.
    3. ``decide`` gives a reason, the weight is inside MLAAttention, or the form of Gemm has no integer counterpart:
       leave, and list it.

    A weight that several products share is decided once. Weights are quantized by whoever reads the codes, not here.
    """

    def __init__(self, decide: Decide) -> None:
        super().__init__()
        self._decide = decide

    def call(self, model: ir.Model) -> QuantizeDynamicResult:
        """Quantize in place."""
        result = QuantizeDynamicResult(model, False)
        work = _Work(model, self._decide)
        for linear in linear_weights(model):
            output = linear.node.outputs[0]
            done = work.quantize(linear)
            if isinstance(done, str):
                result.kept.append(KeptFloat(output.name or "", linear.op_type, linear.place, done))
            else:
                result.quantized.append(done)
        result.modified = bool(result.quantized)
        return result


class _Work:
    """The state of one call: values that have codes already, and weights that were decided on."""

    def __init__(self, model: ir.Model, decide: Decide) -> None:
        self._model = model
        self._graph = model.graph
        self._names = Names(model)
        self._decide = decide
        self._decisions: dict[ir.Value, IntegerWeight | str] = {}
        self._weights: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._codes: dict[tuple[ir.Value, int, bytes], tuple[ir.Value, ir.Value]] = {}

    def quantize(self, linear: LinearWeight) -> QuantizedProduct | str:
        """Replace one product; the reason where it must stay."""
        node = linear.node
        integer = self._decided(linear)
        if isinstance(integer, str):
            return integer
        if reason := _no_counterpart(node):
            return reason
        codes, scale = self._stored(linear, integer)
        self._model.opset_imports.setdefault("porting", 1)
        tape, output = ReplacementTape(), node.outputs[0]
        grouped = node.op_type == "GroupedMatmul"
        bias = self._bias(node, tape)
        rest = (node.inputs[2], bias) if grouped else (bias,)
        attributes = {"bits": integer.weight_bits} if grouped or integer.activation_bits is None else {}
        x = node.inputs[0]
        assert x is not None
        if integer.activation_bits is None:
            emit = tape.WeightOnlyGroupedMatmul if grouped else tape.WeightOnlyMatMul
            new = emit(x, codes, scale, *rest, _domain="porting", **attributes)
        else:
            a, a_scale = self._quantized(x, node, integer)
            emit = tape.QuantizedGroupedMatmul if grouped else tape.QuantizedMatMul
            to = int(output.dtype or ir.DataType.FLOAT)
            new = emit(a, a_scale, codes, scale, *rest, _domain="porting", to=to, **attributes)
        new.dtype, new.shape = output.dtype, output.shape
        splice(self._graph, node, [node], [output], tape, [new], RULE, self._names)
        if not (linear.value.uses() or linear.value.is_graph_output()):
            self._graph.initializers.pop(str(linear.value.name), None)
        return QuantizedProduct(
            new.name or "", linear.op_type, linear.place, integer.weight_bits, integer.group, integer.activation_bits,
            integer.reason,
        )  # fmt: skip

    def _decided(self, linear: LinearWeight) -> IntegerWeight | str:
        if linear.value not in self._decisions:
            self._decisions[linear.value] = self._decide(linear)
        return self._decisions[linear.value]

    def _stored(self, linear: LinearWeight, integer: IntegerWeight) -> tuple[ir.Value, ir.Value]:
        """Codes and scale as initializers, the codes first: writing them is what finds the scales."""
        if linear.value not in self._weights:
            name = f"{linear.value.name}/int{integer.weight_bits}"
            codes = self._initializer(integer.codes, name, linear.value)
            self._weights[linear.value] = (codes, self._initializer(integer.scale, f"{name}/scale", linear.value))
        return self._weights[linear.value]

    def _initializer(self, tensor: ir.TensorProtocol, name: str, source: ir.Value) -> ir.Value:
        value = ir.Value(
            name=self._names.unique(name),
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        provenance.inherit(value, [source], RULE)
        self._graph.register_initializer(value)
        return value

    def _quantized(self, x: ir.Value, before: ir.Node, integer: IntegerWeight) -> tuple[ir.Value, ir.Value]:
        """Codes and scales of ``x``; a new DynamicQuantize stands before its first consumer."""
        assert integer.activation_bits is not None
        smooth = np.ones(1, np.float32) if integer.smooth is None else integer.smooth
        key = (x, integer.activation_bits, smooth.tobytes())
        if key not in self._codes:
            name = f"{x.name}/smooth" if integer.smooth is not None else "no_smooth"
            operand = self._initializer(ir.tensor(smooth), name, x)
            node = ir.node(
                "DynamicQuantize",
                [x, operand],
                {"bits": integer.activation_bits},
                domain="porting",
                num_outputs=2,
                name=self._names.unique(f"{x.name}/DynamicQuantize"),
            )
            codes, scale = node.outputs
            codes.name, scale.name = self._names.unique(f"{x.name}/codes"), self._names.unique(f"{x.name}/scale")
            codes.type, scale.type = ir.TensorType(ir.DataType.INT8), ir.TensorType(ir.DataType.FLOAT)
            if x.shape is not None:
                codes.shape, scale.shape = x.shape, ir.Shape(list(x.shape)[:-1])
            for value in node.outputs:
                provenance.inherit(value, [x], RULE)
            self._graph.insert_before(before, [node])
            self._codes[key] = (codes, scale)
        return self._codes[key]

    def _bias(self, node: ir.Node, tape: ReplacementTape) -> ir.Value:
        """The bias in float32; zeros that broadcast where there is none."""
        index = {"Gemm": 2, "GroupedMatmul": 3}.get(node.op_type)
        value = node.inputs[index] if index is not None and index < len(node.inputs) else None
        if value is None:
            return tape.constant(np.zeros(1, np.float32), "no_bias")
        if value.dtype == ir.DataType.FLOAT:
            return value
        wide: ir.Value = tape.Cast(value, to=int(ir.DataType.FLOAT))
        wide.dtype, wide.shape = ir.DataType.FLOAT, value.shape
        return wide


def _no_counterpart(node: ir.Node) -> str | None:
    """Why a product has no integer form, whatever its weight."""
    if node.op_type == "MLAAttention":
        return "the product is inside MLAAttention, which takes its weight in float"
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1):
        return "Gemm turns or scales its first operand"
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        shape = node.inputs[2].shape
        if attribute(node, "beta", 1.0) != 1 or shape is None or len(shape) != 1:
            return "Gemm scales its bias, or the bias is not one row"
    return None
