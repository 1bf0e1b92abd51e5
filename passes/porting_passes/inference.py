"""What ONNX's own schemas say about one node: is it well formed at an opset, and what are its output types."""

from __future__ import annotations

import functools
from typing import Any

import onnx
import onnx_ir as ir

from porting_passes.schemas import schema
from porting_passes.stored import is_stored

Dims = tuple[int | str | None, ...]
OutputType = tuple[ir.DataType | None, Dims | None]
SMALL = 64
"""Constants up to this many elements take part in decisions and memo keys by value; larger ones only as constants."""


@functools.cache
def _allowed_types(domain: str, op_type: str, opset: int) -> dict[str, frozenset[str]]:
    found = schema(domain, op_type, opset)
    return {c.type_param_str: frozenset(c.allowed_type_strs) for c in found.type_constraints} if found else {}


def signature_error(node: ir.Node, opset: int) -> str | None:
    """Why ``node`` is not well formed at ``opset``, or None: existence, attributes, arity, known dtypes of inputs."""
    op_type = node.op_type
    found = schema(node.domain, op_type, opset)
    if found is None:
        return f"{op_type} does not exist at opset {opset}"
    unknown = sorted(set(node.attributes) - set(found.attributes))
    if unknown:
        return f"{op_type} has no attribute {', '.join(unknown)} at opset {opset}"
    missing = sorted(n for n, a in found.attributes.items() if a.required and n not in node.attributes)
    if missing:
        return f"{op_type} needs attribute {', '.join(missing)} at opset {opset}"
    if not found.min_input <= len(node.inputs) <= found.max_input:
        return f"{op_type} at opset {opset} takes {found.min_input} to {found.max_input} inputs, not {len(node.inputs)}"
    allowed = _allowed_types(node.domain, op_type, opset)
    formals = found.inputs
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType):
            continue
        formal = formals[min(index, len(formals) - 1)]
        name = _onnx_type_string(value.dtype)
        if name not in allowed.get(formal.type_str, formal.types):
            return f"{op_type} at opset {opset} does not take {value.dtype.name.lower()} as {formal.name}"
    return None


def type_error(node: ir.Node, opset: int) -> str | None:
    """Why the known dtypes of a node's inputs and outputs do not go together at ``opset``, or None.

    Inputs are also held to one dtype a type variable; :func:`signature_error` looks at each of them alone.
    """
    found = schema(node.domain, node.op_type, opset)
    if found is None:
        return None
    allowed = _allowed_types(node.domain, node.op_type, opset)
    bound: dict[str, ir.DataType] = {}
    for values, formals in ((node.inputs, found.inputs), (node.outputs, found.outputs)):
        for index, value in enumerate(values):
            if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType) or not formals:
                continue
            formal = formals[min(index, len(formals) - 1)]
            if _onnx_type_string(value.dtype) not in allowed.get(formal.type_str, formal.types):
                return f"{node.op_type} at opset {opset} has no {value.dtype.name.lower()} as {formal.name}"
            if formal.type_str in allowed and formal.is_homogeneous:
                first = bound.setdefault(formal.type_str, value.dtype)
                if first != value.dtype:
                    dtypes = f"{first.name.lower()} and {value.dtype.name.lower()}"
                    return f"{node.op_type} at opset {opset} does not combine {dtypes}"
    return None


@functools.cache
def _onnx_type_string(dtype: ir.DataType) -> str:
    names = {"FLOAT": "float", "DOUBLE": "double"}
    return f"tensor({names.get(dtype.name, dtype.name.lower())})"


def type_key(value: ir.Value | None) -> tuple[Any, ...] | None:
    """Dtype, shape and, for small constants, the contents of a value: equal keys are interchangeable in decisions."""
    if value is None:
        return None
    return (value.dtype, dims_of(value), constant_key(value))


def dims_of(value: ir.Value) -> Dims | None:
    """The shape as a tuple: int, name of a symbol, or None for a nameless unknown extent; None for unknown rank."""
    return None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer, of a Constant node's output or of a constant not yet in a graph; else None.

    An initializer that is also a graph input is a default that the caller may override, not a constant.
    """
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def constant_key(value: ir.Value) -> bytes | bool:
    """Bytes of a small constant, True for a large one, False for a value computed at run time."""
    tensor = constant_tensor(value)
    if tensor is None:
        return False
    return tensor.tobytes() if tensor.size <= SMALL and not is_stored(tensor) else True


def attribute_key(node: ir.Node) -> tuple[Any, ...] | None:
    """The attributes of a node, hashable, sorted by name; None without a cheap key (subgraphs, large tensors)."""
    parts = []
    for name in sorted(node.attributes):
        attr = node.attributes[name]
        if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        value = attr.value
        if attr.is_ref():
            value = ("ref", attr.ref_attr_name)
        elif attr.type == ir.AttributeType.TENSOR:
            if value.size > SMALL:
                return None
            value = (value.dtype, tuple(value.shape), value.tobytes())
        elif isinstance(value, (list, tuple)):
            value = tuple(value)
        elif not isinstance(value, (int, float, str)):
            return None
        parts.append((name, value))
    return tuple(parts)


_INFERS_LIKE = {"GreaterOrEqual": "Greater", "LessOrEqual": "Less"}
"""Operators without inference of their own below opset 16, and one with the same types and shapes."""

_CACHE: dict[tuple[Any, ...], list[OutputType]] = {}


def infer_outputs(node: ir.Node, opset: int) -> list[OutputType]:
    """Dtype and shape of each output as ONNX infers them from input types and small constants; None where unknown.

    Raises nothing: an inference failure of ONNX gives unknown outputs.
    """
    attributes = attribute_key(node)
    key = (node.domain, node.op_type, opset, attributes, len(node.outputs), tuple(type_key(v) for v in node.inputs))
    if attributes is not None and key in _CACHE:
        return _CACHE[key]
    result = _infer(node, opset)
    if attributes is not None:
        _CACHE[key] = result
    return result


def _infer(node: ir.Node, opset: int) -> list[OutputType]:
    unknown: list[OutputType] = [(None, None)] * len(node.outputs)
    definition = schema(node.domain, node.op_type, opset)
    present = [v for v in node.inputs if v is not None]
    if definition is None or any(v.dtype is None or not isinstance(v.type, ir.TensorType) for v in present):
        return unknown
    names = ["" if v is None else f"i{index}" for index, v in enumerate(node.inputs)]
    definition = schema("", _INFERS_LIKE.get(node.op_type, ""), opset) or definition
    proto = onnx.NodeProto(op_type=definition.name, domain=node.domain, input=names)
    proto.output.extend(f"o{index}" for index in range(len(node.outputs)))
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for name, value in zip(names, node.inputs, strict=True):
        if value is None or value.dtype is None:
            continue
        types[name] = onnx.helper.make_tensor_type_proto(value.dtype.value, dims_of(value))
        tensor = constant_tensor(value)
        if tensor is not None and tensor.size <= SMALL and not is_stored(tensor):
            data[name] = ir.serde.serialize_tensor(tensor)
    imports = [onnx.helper.make_opsetid(node.domain, opset)]
    try:
        found = onnx.shape_inference.infer_node_outputs(definition, proto, types, data, opset_imports=imports)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        return unknown
    return [_output_type(found.get(name)) for name in proto.output]


def _output_type(proto: onnx.TypeProto | None) -> OutputType:
    if proto is None or not proto.HasField("tensor_type"):
        return None, None
    tensor = proto.tensor_type
    dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return dtype, None
    dims = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
    return dtype, dims
