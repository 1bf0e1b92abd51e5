"""Carry another floating type between operators."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from porting_kernels.errors import DtypeError, PortingError
from porting_passes import provenance
from porting_passes.constants import constant_of
from porting_passes.convert_weights import largest_finite, overflowing
from porting_passes.infer_shapes import InferShapes
from porting_passes.scopes import subgraphs
from porting_passes.typed_values import WIDE, TypedValues, takes

_LONGEST_ANGLE = 64
"""Nodes above a Sin or Cos that are looked at: positions become angles in a handful."""
_FIRST_OPSET = {ir.DataType.FLOAT16: 1, ir.DataType.BFLOAT16: 13}
_DTYPE_ATTRIBUTES = {
    "Bernoulli": "dtype",
    "Cast": "to",
    "Dequantize": "dtype",
    "EyeLike": "dtype",
    "QuantizedGroupedMatmul": "to",
    "QuantizedMatMul": "to",
    "RandomNormal": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniform": "dtype",
    "RandomUniformLike": "dtype",
    "SequenceEmpty": "dtype",
}
_FLOAT_BY_DEFAULT = frozenset(
    {"Dequantize", "EyeLike", "QuantizedGroupedMatmul", "QuantizedMatMul", "RandomNormal", "RandomUniform"}
)


class WeightOverflowError(PortingError):
    """Weights that the target type cannot hold."""

    exit_code = 1


class ConvertDtype(ir.passes.InPlacePass):
    """float32 -> float16 or bfloat16 between operators, in the main graph and in subgraphs.

    1. Graph inputs and outputs stay float32, with a Cast behind and before them. Other types are not touched.
    2. Weights are converted once, rounded to nearest even. Infinities stay; the float32 extremes, which exporters use
       as "minus infinity", become the target's extremes; any other overflow is a WeightOverflowError naming every
       such weight with its largest magnitude.
    3. An operand that the operator's schema takes only in float32 (the scales of Resize) stays float32: a constant
       as it is, a computed one through Cast. So does every float32 operand of an operator without a schema, and a
       result that the schema declares as float32. Float32 neighbours are joined directly, without a rounding.
       Composite operators say the same of theirs by their TYPES.
    4. Model-local functions are inlined first: their bodies have no types of their own.
    5. The product that gives a GatingTopK its logits stays float32 too, as in DeepSeek's own code and in transformers:
       rounded logits send tokens to other experts. So do the angles of rotations, Sin and Cos of numbers that integers
       and constants alone give: position 255 rounded to bfloat16 is off by a quarter of a radian and more.
    """

    def __init__(self, target: ir.DataType) -> None:
        super().__init__()
        if target not in _FIRST_OPSET:
            raise DtypeError("cannot convert to this type", required="float16 or bfloat16", met=target.name.lower())
        self._target = target

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert in place. Raises WeightOverflowError; DtypeError for an unknown type or an opset without the type."""
        opset = model.opset_imports.get("", 1)
        if opset < _FIRST_OPSET[self._target]:
            raise DtypeError("this opset has no bfloat16", required="opset 13 or newer", met=f"opset {opset}")
        _inline_functions(model)
        InferShapes()(model)
        _require_types(model)
        self._require_fitting_weights(model)
        values = TypedValues(model, self._target, wide=_routers(model) | _angles(model))
        self._convert(model.graph, values, opset)
        values.finish()
        return ir.passes.PassResult(model, True)

    def _require_fitting_weights(self, model: ir.Model) -> None:
        too_large = [
            f"{value.name} ({largest:.6g})"
            for graph in model.graphs()
            for value in graph.initializers.values()
            if value.const_value is not None
            and value.const_value.dtype == WIDE
            and not value.is_graph_input()
            and _used_narrow(value, model, self._target)
            and (largest := overflowing(value.const_value, self._target)) is not None
        ]
        if too_large:
            raise WeightOverflowError(
                f"{len(too_large)} weight{'s' if len(too_large) > 1 else ''} overflow {self._target.name.lower()}",
                required=f"finite magnitudes up to {largest_finite(self._target):.6g}",
                met=", ".join(too_large),
                fix="another --dtype, or smaller weights",
            )

    def _convert(self, graph: ir.Graph, values: TypedValues, opset: int) -> None:
        """Every node of ``graph`` in order; bodies before the nodes that own them."""
        for node in list(graph):
            for body in subgraphs(node):
                for value in body.inputs:
                    values.declare_narrow(value)
                self._convert(body, values, opset)
                for index, value in enumerate(body.outputs):
                    body.outputs[index] = values.narrow(value)
            if not values.is_constant(node):
                self._convert_attributes(node, opset)
                values.retype(node, opset)

    def _convert_attributes(self, node: ir.Node, opset: int) -> None:
        """Attributes that choose float32 as a result type choose the target, where the schema has it."""
        if node.domain not in ("", "porting") or not takes(node, None, self._target, opset):
            return
        name = _DTYPE_ATTRIBUTES.get(node.op_type)
        if name is not None:
            chosen = node.attributes.get(name)
            default = node.op_type in _FLOAT_BY_DEFAULT and chosen is None
            if default or (chosen is not None and chosen.as_int() == WIDE):
                node.attributes[name] = ir.AttrInt64(name, int(self._target))
        elif node.op_type == "ConstantOfShape":
            fill = node.attributes.get("value")
            if fill is None or fill.as_tensor().dtype == WIDE:
                array = [0.0] if fill is None else fill.as_tensor().numpy().reshape(-1).tolist()
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array, dtype=self._target))


def _used_narrow(value: ir.Value, model: ir.Model, target: ir.DataType) -> bool:
    opset = model.opset_imports.get("", 1)
    return any(takes(node, index, target, opset) for node, index in value.uses())


def _routers(model: ir.Model) -> frozenset[ir.Node]:
    """The matrix products whose results are the logits of a gating, a bias added in between included."""
    found: set[ir.Node] = set()
    for gating in model.graph.all_nodes():
        node = gating.inputs[0].producer() if gating.op_type == "GatingTopK" and gating.inputs[0] is not None else None
        while node is not None and node.op_type in ("Reshape", "Add", "MatMul", "Gemm"):
            found.add(node)
            if node.op_type in ("MatMul", "Gemm"):
                break
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return frozenset(found)


def _angles(model: ir.Model) -> frozenset[ir.Node]:
    """Sin and Cos whose angles come from integers and constants, with the float32 nodes between."""
    found: set[ir.Node] = set()
    for node in model.graph.all_nodes():
        if node.op_type in ("Sin", "Cos") and node.domain == "":
            above: set[ir.Node] = set()
            if _comes_from_integers(node, above):
                found |= above
    return frozenset(found)


def _comes_from_integers(node: ir.Node, seen: set[ir.Node]) -> bool:
    """Whether no float32 value that a run brings in reaches ``node``; it and its float32 ancestors go into ``seen``."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for value in current.inputs:
            if value is None or value.dtype != WIDE or constant_of(value) is not None:
                continue
            producer = value.producer()
            if producer is None or len(seen) > _LONGEST_ANGLE:
                return False
            waiting.append(producer)
    return True


def _inline_functions(model: ir.Model) -> None:
    """Inline every model-local function; values that keep their name keep their provenance."""
    if not model.functions:
        return
    known = {value.name: provenance.of(value) for node in model.graph.all_nodes() for value in node.outputs}
    common.InlinePass()(model)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name in known:
                provenance.set_(value, known[value.name])


def _require_types(model: ir.Model) -> None:
    untyped = [
        f"{value.name} ({node.op_type})"
        for node in model.graph.all_nodes()
        for value in node.outputs
        if value.type is None and value.uses()
    ]
    if untyped:
        raise DtypeError("values of unknown type", met=", ".join(untyped), fix="give these outputs a type in the model")
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype == WIDE and not isinstance(value.type, ir.TensorType):
            raise DtypeError("a sequence or optional of float32 at the edge of the graph", where=value.name)
