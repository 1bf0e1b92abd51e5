"""Compute what depends on nothing but constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from porting_kernels import dtypes, registry
from porting_kernels.errors import PortingError
from porting_passes.constants import constant_of, ints_of, replace_by_constant, stays_on_disk
from porting_passes.inference import infer_outputs
from porting_passes.scopes import Scope, holder, nodes

RULE = "fold_constants"
_SLACK = 1 << 20
_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_QUANTIZATION = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})


class FoldConstants(ir.passes.InPlacePass):
    """Replace nodes whose inputs are all constant by their values, computed with the kernels of floor 1.

    1. Constant nodes of graphs become initializers (in functions, which have none, they stay).
    2. Shape and Size of static dimensions; Gather and Slice that pick only static dimensions out of a Shape.
    3. Any other node with constant inputs, a kernel and known output sizes: computed exactly as the interpreter does.
    4. Left alone: random operators; quantize and dequantize (folding one would hide a model's own quantization);
       nodes with subgraphs or without inputs; strings; results larger than the inputs together plus 1 MiB; nodes
       that read more than ``largest_input`` bytes, or any weight that stays in a checkpoint.
    """

    def __init__(self, *, largest_input: int = 1 << 30) -> None:
        super().__init__()
        self._largest_input = largest_input

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in place. The folded nodes are removed."""
        modified = False
        for node, root in nodes(model):
            modified |= self._fold(node, root)
        return ir.passes.PassResult(model, modified)

    def _fold(self, node: ir.Node, root: Scope) -> bool:
        scope = holder(node, root)
        if scope is None or node.domain != "" or any(a.is_ref() for a in node.attributes.values()):
            return False
        version = root.opset_imports.get("", 1)
        tensors = self._evaluate(node, scope, version)
        if tensors is None:
            return False
        for output, tensor in zip(node.outputs, tensors, strict=True):
            if output.uses() or output.is_graph_output():
                replace_by_constant(scope, node, output, tensor, RULE)
        scope.remove(node, safe=True)
        return True

    def _evaluate(self, node: ir.Node, scope: Scope, version: int) -> Sequence[ir.TensorProtocol] | None:
        if any(output.is_graph_output() for output in node.outputs):
            return None
        if node.op_type == "Constant":
            tensor = constant_of(node.outputs[0])
            return [tensor] if tensor is not None and isinstance(scope, ir.Graph) else None
        dims = _static_dims(node)
        if dims is not None:
            return [ir.tensor(dims)]
        if node.op_type in _RANDOM or node.op_type in _QUANTIZATION or not node.inputs:
            return None
        return self._compute(node, version)

    def _compute(self, node: ir.Node, version: int) -> Sequence[ir.TensorProtocol] | None:
        operands = [None if value is None else constant_of(value) for value in node.inputs]
        present = [value for value in node.inputs if value is not None]
        constants = [tensor for tensor in operands if tensor is not None]
        if not present or len(constants) != len(present):
            return None
        if any(tensor.dtype == ir.DataType.STRING or stays_on_disk(tensor) for tensor in constants):
            return None
        read = sum(tensor.nbytes for tensor in constants)
        if read > self._largest_input:
            return None
        for value, tensor in zip(present, constants, strict=True):
            if value.type is None:  # inside functions values have no declared types
                value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        kernel = registry.lookup(node.domain, node.op_type, version)
        if kernel is None:
            return None
        types = infer_outputs(node, version)
        if _bytes(types) > read + _SLACK:
            return None
        return _run(kernel, node, operands, [dtype for dtype, _ in types], version)


def _bytes(types: Sequence[tuple[ir.DataType | None, tuple[int | str | None, ...] | None]]) -> float:
    """Bytes of the outputs; infinite where a dtype or a dimension is unknown."""
    total = 0.0
    for dtype, dims in types:
        if dtype is None or dims is None or any(not isinstance(d, int) for d in dims):
            return math.inf
        total += dtype.bitwidth / 8 * math.prod(d for d in dims if isinstance(d, int))
    return total


def _run(
    kernel: registry.Kernel,
    node: ir.Node,
    operands: Sequence[ir.TensorProtocol | None],
    expected: Sequence[ir.DataType | None],
    version: int,
) -> Sequence[ir.TensorProtocol] | None:
    """The kernel's results as tensors; None when it refuses the operands or returns something else than tensors."""
    attributes: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        value = attribute.value
        if isinstance(value, ir.TensorProtocol):
            value = dtypes.to_torch(value.numpy())
        attributes[name] = list(value) if isinstance(value, tuple) else value
    if kernel.takes_context:
        attributes["context"] = registry.Context(version=version, outputs=len(node.outputs))
    try:
        inputs = [None if tensor is None else dtypes.to_torch(tensor.numpy()) for tensor in operands]
        results = kernel.function(*inputs, **attributes)
    except PortingError:
        return None
    values = results if isinstance(results, tuple) else (results,)
    if len(values) < len(node.outputs) or not all(isinstance(value, torch.Tensor) for value in values):
        return None
    return [
        ir.tensor(dtypes.to_numpy(value.contiguous().clone(), None if dtype is None else int(dtype)), dtype=dtype)
        for value, dtype in zip(values, expected, strict=False)
    ]


def _static_dims(node: ir.Node) -> np.ndarray | None:
    """The int64 result of a Shape or Size, or of a Gather or Slice over a Shape, when it is made of static dims."""
    if node.op_type == "Size":
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        return np.array(math.prod(shape.numpy()), np.int64) if shape is not None and shape.is_static() else None
    if node.op_type == "Shape":
        return _all_static(_shape_dims(node))
    if node.op_type not in ("Gather", "Slice") or not node.inputs or node.inputs[0] is None:
        return None
    producer = node.inputs[0].producer()
    if producer is None or producer.op_type != "Shape" or producer.domain != "":
        return None
    dims = _shape_dims(producer)
    if dims is None:
        return None
    return _gather(node, dims) if node.op_type == "Gather" else _slice(node, dims)


def _shape_dims(node: ir.Node) -> list[int | None] | None:
    """What a Shape node returns, None for each symbolic dimension; None when the rank is unknown."""
    source = node.inputs[0]
    if source is None or source.shape is None or any(a.is_ref() for a in node.attributes.values()):
        return None
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else len(source.shape)
    dims = [dim if isinstance(dim, int) else None for dim in source.shape]
    rank = len(dims)
    first, last = (min(max(i + rank if i < 0 else i, 0), rank) for i in (start, end))
    return dims[first:last]


def _all_static(dims: Sequence[int | None] | None) -> np.ndarray | None:
    if dims is None or any(dim is None for dim in dims):
        return None
    return np.array(dims, np.int64)


def _gather(node: ir.Node, dims: list[int | None]) -> np.ndarray | None:
    indices = constant_of(node.inputs[1])
    flat = ints_of(node.inputs[1])
    if indices is None or flat is None or any(not -len(dims) <= i < len(dims) for i in flat):
        return None
    picked = _all_static([dims[i] for i in flat])
    return None if picked is None else picked.reshape(tuple(indices.shape.numpy()))


def _slice(node: ir.Node, dims: list[int | None]) -> np.ndarray | None:
    bounds = [ints_of(value) for value in node.inputs[1:]]
    if len(bounds) < 2 or any(bound is None or len(bound) != 1 for bound in bounds):
        return None
    start, end, *rest = (bound[0] for bound in bounds if bound is not None)
    step = rest[1] if len(rest) > 1 else 1
    return _all_static(dims[start:end:step]) if step > 0 else None
