"""A bfloat16 ONNX file as float32: what onnxruntime's CPU provider, which has no bfloat16 arithmetic, can run.

Every bfloat16 value is a float32 value too, so weights keep their values and only the rounding between operators is
lost: the graph, its attributes and its weights are still checked by an independent engine, up to bfloat16's rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from porting.frontends.onnx_structure import bodies

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
