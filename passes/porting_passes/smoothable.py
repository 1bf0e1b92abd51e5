"""Normalizations whose result nothing but products with weights reads: where smoothing can be folded in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from porting_passes.constants import constant_of
from porting_passes.halves import last_extent
from porting_passes.node_facts import attribute
from porting_passes.quantize_dynamic import product_weight
from porting_passes.turn_weight import turned

_NORMS = ("RMSNorm", "AddRMSNorm")
_MOVES = frozenset({"Reshape", "Flatten", "Unsqueeze", "Squeeze", "Identity", "Cast", "porting.MoeDispatch"})
"""Operators whose first result has the rows of the first operand, with their columns as they are."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A weight that multiplies the rows of a normalization. axis: of its input channels, -1 or -2."""

    value: ir.Value
    tensor: ir.TensorProtocol
    axis: int

    @property
    def output_first(self) -> ir.TensorProtocol:
        """(..., N, K); nothing is read."""
        return self.tensor if self.axis == -1 else turned(self.tensor, str(self.value.name))


@dataclasses.dataclass(frozen=True)
class SmoothGroup:
    """A normalization, its weight, its result, and every weight that multiplies the result."""

    norm: ir.Node
    weight: ir.Value
    result: ir.Value
    readers: tuple[Reader, ...]


def smooth_groups(model: ir.Model) -> Iterator[SmoothGroup]:
    """The groups of the main graph, in its order.

    Left out: a normalization whose weight is computed, or has an offset; a result that something else than products
    with constant weights reads; weights that something else reads too.
    """
    for node in model.graph:
        if node.domain != "porting" or node.op_type not in _NORMS or attribute(node, "weight_offset", 0.0) != 0:
            continue
        weight, result = node.inputs[-1], node.outputs[0]
        if weight is None or constant_of(weight) is None or last_extent(result) is None:
            continue
        readers = _readers(result)
        if readers and not _shared(readers):
            yield SmoothGroup(node, weight, result, tuple(readers))


def _readers(result: ir.Value) -> list[Reader]:
    """Every weight behind a value; none where something else reads it."""
    found: dict[ir.Value, Reader] = {}
    waiting, columns = [result], last_extent(result)
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return []
        for node, index in value.uses():
            operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
            product = product_weight(node) if index == 0 else None
            if product is not None and node.op_type != "MLAAttention":
                weight, tensor, first = product
                found[weight] = Reader(weight, tensor, -1 if first else -2)
            elif operator in _MOVES and index == 0 and last_extent(node.outputs[0]) == columns:
                waiting.append(node.outputs[0])
            elif operator != "Shape":
                return []
    return list(found.values())


def _shared(readers: list[Reader]) -> bool:
    """Whether a weight has another use than the product that was found, such as a tied embedding."""
    return any(len(list(reader.value.uses())) != 1 for reader in readers)
