"""The function bodies that ONNX's own operator schemas carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx
import onnx_ir as ir
import torch

from porting_kernels import dtypes


@dataclasses.dataclass(frozen=True)
class Body:
    """A function, and for each output of the operator the function's output, or None.

    A body made for one node leaves out what computes the outputs that the node does not name.
    """

    function: ir.Function
    outputs: tuple[int | None, ...]


def _schema(domain: str, op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, max_inclusive_version=version, domain=domain)
    except onnx.defs.SchemaError:
        return None


def _newest(versions: Sequence[int], limit: int) -> int | None:
    return max((version for version in versions if version <= limit), default=None)


def defaults(domain: str, op_type: str, version: int) -> dict[str, ir.Attr]:
    """Default values of an operator's attributes; empty for an operator without a schema."""
    schema = _schema(domain, op_type, version)
    if schema is None:
        return {}
    return {
        name: ir.from_proto(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }


def has_body(domain: str, op_type: str, version: int) -> bool:
    """True when ``body`` may find one; a body that depends on operand types can still refuse them."""
    schema = _schema(domain, op_type, version)
    if schema is None:
        return False
    fixed = schema.has_function and _newest(schema.function_opset_versions, version)
    typed = schema.has_context_dependent_function and _newest(schema.context_dependent_function_opset_versions, version)
    return bool(fixed or typed)


def depends_on_types(domain: str, op_type: str, version: int) -> bool:
    """True when the body can only be made once the operands' element types are known."""
    schema = _schema(domain, op_type, version)
    return schema is not None and not (schema.has_function and _newest(schema.function_opset_versions, version))


def body(
    node: ir.Node, domain: str, version: int, attributes: Sequence[ir.Attr], operands: Sequence[torch.Tensor | None]
) -> Body | None:
    """The body of a node's schema at an opset version, or None.

    attributes: the node's, with references resolved. operands: only their dtypes and shapes are looked at. Both
    matter only when the body depends on them.
    """
    schema = _schema(domain, node.op_type, version)
    if schema is None:
        return None
    if schema.has_function and (newest := _newest(schema.function_opset_versions, version)):
        text = schema.get_function_with_opset_version(newest)
    elif newest := _newest(schema.context_dependent_function_opset_versions, version):
        types = [_type(operand).SerializeToString() for operand in operands]
        proto = ir.to_proto(node)
        del proto.attribute[:]
        proto.attribute.extend(ir.to_proto(attribute) for attribute in attributes)
        text = schema.get_context_dependent_function_with_opset_version(newest, proto.SerializeToString(), types)
    else:
        return None
    if not text:
        return None
    proto = onnx.FunctionProto.FromString(text)
    computed = {*proto.input, *(name for inner in proto.node for name in inner.output)}
    kept = [name for name in proto.output if name in computed]
    outputs = tuple([kept.index(name) if name in computed else None for name in proto.output])
    del proto.output[:]
    proto.output.extend(kept)
    return Body(ir.from_proto(proto), outputs)


def _type(operand: torch.Tensor | None) -> onnx.TypeProto:
    if operand is None:
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(dtypes.by_torch(operand.dtype).code, operand.shape)
