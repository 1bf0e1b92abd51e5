"""A bfloat16 model as float32: what onnxruntime's CPU provider, which has no bfloat16 arithmetic, can run.

Every bfloat16 value is a float32 value too, so weights keep their values and only the rounding between operators is
lost: the graph, its attributes and its weights are still checked by an independent engine. The simulation is widened
likewise, so that the two differ by what float32 rounds and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from porting.frontends.onnx_structure import bodies
from porting_kernels import dtypes
from porting_passes.stored import is_stored

_FROM, _TO = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
# attributes that hold an element type
_TYPES = frozenset({"to", "dtype", "stash_type", "output_dtype", "output_datatype"})


def widened(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """A copy with bfloat16 turned into float32 in weights, types, casts and bodies. folder: of external data."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    graphs = list(_graphs(result.graph))
    for function in result.functions:
        graphs += [graph for node in function.node for body in bodies(node) for graph in _graphs(body)]
    nodes = [node for holder in (*graphs, *result.functions) for node in holder.node]
    for graph in graphs:
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == _FROM:
                value.type.tensor_type.elem_type = _TO
        for tensor in graph.initializer:
            _widen_tensor(tensor, folder)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.INT and attribute.i == _FROM and attribute.name in _TYPES:
                attribute.i = _TO
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t, folder)
    return result


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from _graphs(body)


def _widen_tensor(tensor: onnx.TensorProto, folder: Path) -> None:
    if tensor.data_type != _FROM:
        return
    values = onnx.numpy_helper.to_array(tensor, str(folder)).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def widened_model(model: ir.Model) -> ir.Model:
    """The same for a model in memory, which is left as it is. Weights that stay in their files stay there."""
    result = model.clone()
    for graph in result.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            _widen_value(value)
        for node in graph:
            _widen_node(node)
    for function in result.functions.values():
        for node in function.all_nodes():
            _widen_node(node)
    return result


def _widen_node(node: ir.Node) -> None:
    for value in node.outputs:
        _widen_value(value)
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.INT and attribute.as_int() == _FROM and name in _TYPES:
            node.attributes[name] = ir.AttrInt64(name, _TO)
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == ir.DataType.BFLOAT16:
            node.attributes[name] = ir.AttrTensor(name, _widen(attribute.as_tensor(), ""))


def _widen_value(value: ir.Value) -> None:
    if value.dtype == ir.DataType.BFLOAT16:
        value.dtype = ir.DataType.FLOAT
    tensor = value.const_value
    if tensor is not None and tensor.dtype == ir.DataType.BFLOAT16:
        value.const_value = _widen(tensor, value.name or "")


def _widen(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    if is_stored(tensor):
        return tensor.converted(ir.DataType.FLOAT, name)
    return ir.tensor(dtypes.to_torch(tensor.numpy()).float().numpy(), name=name)
