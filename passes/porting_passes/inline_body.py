"""The last candidate for any operator that has one: its own function body, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes.builder import Builder, BuildError
from porting_passes.contract import Contract
from porting_passes.decomposition import Decomposition
from porting_passes.inference import SMALL, Dims, constant_tensor, dims_of
from porting_passes.operators import BODIES, FLAT, SINCE
from porting_passes.schemas import schema
from porting_passes.stored_forms import STORED_DOMAIN, stored_form

Functions = Mapping[ir.OperatorIdentifier, ir.Function]
_MEANING = Contract("tolerance", 1e-5, "the standard's own definition, evaluated operator by operator", nonfinite=False)


def body_of(node: ir.Node, opset: int, functions: Functions) -> ir.Function | None:
    """The function that defines an operator at ``opset``: the model's own, a composite operator's, or the schema's.

    A body of the schema counts only when every operator in it means the same at its own opset and at the model's.
    """
    local = functions.get(node.op_identifier())
    if local is not None:
        return local
    key = node.domain, node.op_type
    if key in BODIES:
        return (FLAT.get(key) or BODIES[key])(opset) if opset >= SINCE[key] else None
    definition = schema(node.domain, node.op_type, opset)
    if definition is None:
        return None
    proto = _schema_body(definition, node, opset)
    if proto is None or not _same_meaning(proto, opset):
        return None
    del proto.output[len(node.outputs) :]
    made = {name for inner in proto.node for name in inner.output}
    return ir.serde.deserialize_function(proto) if made.issuperset(proto.output) else None


def _schema_body(definition: onnx.defs.OpSchema, node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    """The newest body that was written for at most ``opset``; some depend on the node's types and attributes."""
    if definition.has_function:
        versions = [v for v in definition.function_opset_versions if v <= opset]
        if versions:
            return onnx.FunctionProto.FromString(definition.get_function_with_opset_version(max(versions)))
    if not definition.has_context_dependent_function:
        return None
    versions = [v for v in definition.context_dependent_function_opset_versions if v <= opset]
    if not versions or any(v is not None and v.dtype is None for v in node.inputs):
        return None
    # Not ir.serde.serialize_node: a node under consideration may have operands without names.
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    proto.input.extend("" if value is None else f"i{index}" for index, value in enumerate(node.inputs))
    proto.output.extend("" if value.name == "" else f"o{index}" for index, value in enumerate(node.outputs))
    proto.attribute.extend(ir.serde.serialize_attribute(attribute) for attribute in node.attributes.values())
    types = [
        b""
        if v is None or v.dtype is None
        else onnx.helper.make_tensor_type_proto(v.dtype.value, dims_of(v)).SerializeToString()
        for v in node.inputs
    ]
    try:
        text = definition.get_context_dependent_function_with_opset_version(
            max(versions), proto.SerializeToString(), types
        )
    except (RuntimeError, onnx.onnx_cpp2py_export.checker.ValidationError):
        return None
    return onnx.FunctionProto.FromString(text) if text else None


def _same_meaning(proto: onnx.FunctionProto, opset: int) -> bool:
    written = next((i.version for i in proto.opset_import if i.domain in ("", "ai.onnx")), opset)
    for inner in proto.node:
        now, then = schema(inner.domain, inner.op_type, opset), schema(inner.domain, inner.op_type, written)
        if now is None or then is None or now.since_version != then.since_version:
            return False
    return True


def inline(b: Builder, node: ir.Node, body: ir.Function) -> Sequence[ir.Value | None]:
    """Emit the nodes of ``body`` for the operands and attributes of ``node``; what is constant is computed."""
    if len(node.inputs) > len(body.inputs):
        raise BuildError(f"{node.op_type} has {len(node.inputs)} operands, its body {len(body.inputs)}")
    values: dict[ir.Value, ir.Value | None] = dict.fromkeys(body.inputs)
    values.update(zip(body.inputs, node.inputs, strict=False))
    for inner in body:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in inner.attributes.values()):
            raise BuildError(f"the body of {node.op_type} has control flow ({inner.op_type})")
        attributes = _bound(node, body, inner)
        operands = [None if value is None else values[value] for value in inner.inputs]
        outputs = _emit(b, inner, operands, attributes)
        values.update(zip(inner.outputs, outputs, strict=False))
    return [values[value] for value in body.outputs[: len(node.outputs)]]


def _bound(node: ir.Node, body: ir.Function, inner: ir.Node) -> dict[str, ir.Attr]:
    """The attributes of an inner node, references replaced by the node's own attributes or the body's defaults."""
    bound: dict[str, ir.Attr] = {}
    for name, attr in inner.attributes.items():
        if not attr.is_ref():
            bound[name] = attr
            continue
        reference = attr.ref_attr_name or ""
        sources = (node.attributes.get(reference), body.attributes.get(reference), _default(node, reference))
        given = next((source for source in sources if source is not None and source.value is not None), None)
        if given is not None:
            bound[name] = ir.Attr(name, given.type, given.value)
    return bound


def _default(node: ir.Node, name: str) -> ir.Attr | None:
    definition = schema(node.domain, node.op_type, onnx.defs.onnx_opset_version())
    found = definition.attributes.get(name) if definition else None
    if found is None or not found.default_value.name:
        return None
    return ir.serde.deserialize_attribute(found.default_value)


def _emit(
    b: Builder, inner: ir.Node, operands: list[ir.Value | None], attributes: dict[str, ir.Attr]
) -> Sequence[ir.Value | None]:
    if inner.op_type == "Constant" and inner.domain == "":
        probe = ir.Node("", "Constant", [], list(attributes.values()), num_outputs=1)
        tensor = constant_tensor(probe.outputs[0])
        if tensor is None:
            raise BuildError("a constant of the body is not a tensor")
        return [b.tensor(tensor)]
    first = operands[0] if operands else None
    if inner.op_type == "Identity" and first is not None:
        return [first]
    if inner.domain == STORED_DOMAIN:
        return [b.tensor(stored_form(inner.op_type, operands))]
    if inner.op_type == "Cast" and first is not None and first.dtype == attributes["to"].value:
        return [first]
    if inner.op_type == "CastLike" and len(operands) == 2 and operands[1] is not None:
        to = b.dtype_of(operands[1])
        if first is not None and first.dtype == to:
            return [first]
        inner = ir.Node("", "Cast", [], num_outputs=1)
        operands, attributes = operands[:1], {"to": ir.AttrInt64("to", to.value)}
    folded = _folded(b, inner, operands, attributes)
    if folded is not None:
        return folded
    return b.emit(
        inner.op_type,
        operands,
        dict(attributes),
        outputs=len(inner.outputs),
        domain=inner.domain,
        overload=inner.overload,
    )


def _folded(
    b: Builder, inner: ir.Node, operands: list[ir.Value | None], attributes: dict[str, ir.Attr]
) -> list[ir.Value | None] | None:
    """The outputs as constants, for small constant operands and the shape of a value of known extents."""
    present = [value for value in operands if value is not None]
    if inner.op_type == "Shape" and present:
        dims = dims_of(present[0])
        asked = None if dims is None else _slice(dims, attributes)
        if asked is None or not all(isinstance(d, int) for d in asked):
            return None
        if len(asked) != len(dims or ()):
            return [b.ints([d for d in asked if isinstance(d, int)])]
        dims = asked
        arrays = [np.empty(dims, np.bool_) if len(dims) == 0 else np.broadcast_to(np.False_, dims)]  # type: ignore[arg-type]
        codes = [ir.DataType.BOOL]
    else:
        tensors = [constant_tensor(value) for value in present]
        if not tensors or any(tensor is None or tensor.size > SMALL for tensor in tensors) or inner.domain:
            return None
        arrays = [_array(tensor) for tensor in tensors if tensor is not None]
        codes = [tensor.dtype for tensor in tensors if tensor is not None]
    proto = onnx.NodeProto(op_type=inner.op_type)
    proto.input.extend("" if value is None else f"i{i}" for i, value in enumerate(operands))
    proto.output.extend(f"o{i}" for i in range(len(inner.outputs)))
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in attributes.values())
    feeds = dict(zip((name for name in proto.input if name), arrays, strict=True))
    types = [
        onnx.helper.make_tensor_value_info(n, code.value, a.shape)
        for (n, a), code in zip(feeds.items(), codes, strict=True)
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([proto], "constant", types, outputs),
        opset_imports=[onnx.helper.make_opsetid("", b.opset)],
    )
    try:
        results = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, PortingError):
        return None
    if any(not isinstance(result, np.ndarray | np.generic) or np.size(result) > SMALL for result in results):
        return None
    return [b.tensor(_tensor(np.asarray(result))) for result in results]


def _slice(dims: Dims, attributes: Mapping[str, ir.Attr]) -> Dims:
    """The extents that a Shape with ``start`` and ``end`` asks for."""
    bounds = [None if name not in attributes else attributes[name].as_int() for name in ("start", "end")]
    return dims[slice(*bounds)]


def _array(tensor: ir.TensorProtocol) -> np.ndarray:
    """Strings as str, which is how onnx.reference compares them: onnx_ir gives bytes."""
    if tensor.dtype != ir.DataType.STRING:
        return tensor.numpy()
    texts = [text.decode() for text in tensor.numpy().flat]
    return np.array(texts, dtype=object).reshape(tuple(tensor.shape.numpy()))


def _tensor(array: np.ndarray) -> ir.TensorProtocol:
    if array.dtype.kind in "SUO":
        texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.flat]
        return ir.StringTensor(texts, shape=ir.Shape(array.shape))
    return ir.tensor(array)


def inlining(node: ir.Node, opset: int, functions: Functions) -> Decomposition | None:
    """The candidate that replaces ``node`` by its function body; None when it has none that fits."""
    body = body_of(node, opset, functions)
    if body is None:
        return None
    return Decomposition(
        f"inline_{node.op_type}",
        node.op_type,
        lambda b, n: inline(b, n, body),
        _MEANING,
        lambda rng: (),
        domain=node.domain,
    )
