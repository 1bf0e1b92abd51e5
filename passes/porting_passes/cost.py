"""A rough price of a node, to choose between forms that compute the same thing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from porting_passes.inference import dims_of

NODE = 2048.0
"""Bytes' worth of launching one node: among small forms the one with fewer nodes wins."""
_ASSUMED = 64
"""Extent taken for a dimension that neither the model nor the caller gives."""
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_COSTLY = frozenset(
    {"Exp", "Log", "Pow", "Sqrt", "Tanh", "Sigmoid", "Erf", "Sin", "Cos", "Softmax", "LogSoftmax", "Div", "Reciprocal"}
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})

Dims = Mapping[str, tuple[int, int]]


def elements(value: ir.Value | None, dims: Dims) -> float:
    """Elements of a value; a symbol counts with its greatest size."""
    if value is None or value.shape is None:
        return 0.0 if value is None else float(_ASSUMED * _ASSUMED)
    sizes = (d if isinstance(d, int) else dims.get(d or "", (1, _ASSUMED))[1] for d in dims_of(value) or ())
    return float(math.prod(sizes))


def node_cost(node: ir.Node, dims: Dims) -> float:
    """Bytes read and written, plus arithmetic in the same unit: a multiplication of a product moves 1/8 byte's worth.

    Operators that only give a value another shape cost their launch; transcendental ones four bytes more an element.
    """
    if node.op_type in _VIEWS and node.domain == "":
        return NODE
    operands = [value for value in (*node.inputs, *node.outputs) if value is not None]
    total = NODE + sum(elements(v, dims) * (v.dtype.bitwidth / 8 if v.dtype is not None else 4) for v in operands)
    written = sum(elements(value, dims) for value in node.outputs)
    if node.op_type in _COSTLY:
        total += 4 * written
    elif node.op_type in _PRODUCTS and len(node.inputs) > 1 and node.inputs[1] is not None:
        total += written * _contracted(node, dims) / 8
    return total


def _contracted(node: ir.Node, dims: Dims) -> float:
    """Products summed for one element of the result, from the weight's extents."""
    weight = node.inputs[1]
    shape = dims_of(weight) if weight is not None else None
    if not shape:
        return float(_ASSUMED)
    known = [d if isinstance(d, int) else _ASSUMED for d in shape]
    return float(known[-2] if node.op_type in ("MatMul", "Gemm") and len(known) > 1 else math.prod(known[1:]))
