"""Constants of a graph: which values are constant, and making new ones where a graph or a function can hold them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porting_passes import provenance
from porting_passes.scopes import Scope


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a constant value: an initializer that is no input, or a Constant node's output; else None.

    An initializer that is also a graph input is a default that the caller may override, not a constant.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain != "":
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref() or attribute.name == "sparse_value":
        return None
    return ir.convenience.get_const_tensor(value)


def stays_on_disk(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor is a weight of a checkpoint: constant, but not worth reading for what a pass would gain.

    Such a tensor offers to be read by ``blocks`` of rows under a budget, which no tensor of onnx_ir does.
    """
    return hasattr(tensor, "blocks")


def array_of(value: ir.Value | None, limit: int = 1 << 20) -> np.ndarray | None:
    """The contents of a constant of at most ``limit`` bytes; None for anything else. Larger ones are not read."""
    tensor = constant_of(value)
    return tensor.numpy() if tensor is not None and tensor.nbytes <= limit else None


def ints_of(value: ir.Value | None) -> list[int] | None:
    """A small integer constant as a flat list, else None."""
    array = array_of(value, limit=1 << 16)
    return None if array is None or array.dtype.kind not in "iu" else [int(i) for i in array.reshape(-1)]


def new_constant(scope: Scope, tensor: ir.TensorProtocol, name: str, before: ir.Node | None = None) -> ir.Value:
    """A constant named ``name``: an initializer of a graph, a Constant node (``before`` a node) of a function."""
    shape, type_ = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    if isinstance(scope, ir.Graph):
        value = ir.Value(name=name, shape=shape, type=type_, const_value=tensor)
        scope.register_initializer(value)
        return value
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1)
    value = node.outputs[0]
    value.name, value.type, value.shape = name, type_, shape
    value.const_value = tensor
    if before is None:
        first = next(iter(scope), None)
        if first is None:
            scope.append(node)
            return value
        before = first
    scope.insert_before(before, [node])
    return value


def replace_by_constant(scope: Scope, node: ir.Node, value: ir.Value, tensor: ir.TensorProtocol, rule: str) -> None:
    """Let ``value``, an output of ``node``, be a constant of the same name and provenance. The node stays."""
    name = value.name or f"{node.name}.folded"
    value.name = f"{name}.unfolded"
    constant = new_constant(scope, tensor, name, before=node)
    provenance.inherit(constant, [value], rule, equal=True)
    value.replace_all_uses_with(constant, replace_graph_outputs=True)
