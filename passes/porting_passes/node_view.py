"""A graph's node as constraints see it: dtypes by name, shapes, attributes, and what stands beside it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from porting_passes.constants import constant_of
from porting_passes.constraints import Operand
from porting_passes.operator_set import qualified
from porting_passes.row_check import Node
from porting_passes.stored import is_stored

_FEATURE = {
    **dict.fromkeys(("rank", "dim", "shape", "static"), "shape"),
    **dict.fromkeys(("consumers", "producer"), "neighbours"),
}


EVERYTHING = frozenset(("shape", "constant", "neighbours", "filled"))
SMALL = 4096
"""Elements up to which the contents of a constant can take part in a limit."""


def looks_of(features: Iterable[str]) -> frozenset[str]:
    """What constraints that use these functions look at beyond dtypes and attributes: see EVERYTHING."""
    return frozenset(_FEATURE.get(feature, feature) for feature in features) & EVERYTHING


def view(node: ir.Node, opset: int, looks: frozenset[str] = EVERYTHING) -> Node:
    """The node; of operands, only what ``looks`` names is filled in. opset: the model's ai.onnx version."""
    return Node(
        domain=node.domain,
        op_type=node.op_type,
        form=node.overload,
        opset=opset,
        inputs=tuple(_operand(value, looks) for value in node.inputs),
        outputs=tuple(_operand(value, looks) for value in node.outputs),
        attributes={name: _plain(attribute) for name, attribute in node.attributes.items()},
    )


def is_constant(value: ir.Value) -> bool:
    """Whether the value is a weight or the output of a Constant node."""
    if value.const_value is not None or value.is_initializer():
        return True
    producer = value.producer()
    return producer is not None and qualified(producer.domain, producer.op_type) == "Constant"


def _operand(value: ir.Value | None, looks: frozenset[str]) -> Operand | None:
    if value is None or value.name == "":
        return None
    dtype = value.dtype
    shape: tuple[int | str | None, ...] | None = None
    if "shape" in looks and value.shape is not None:
        shape = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    producer, consumers = "", set[str]()
    if "neighbours" in looks:
        if (maker := value.producer()) is not None:
            producer = qualified(maker.domain, maker.op_type)
        consumers = {qualified(use.node.domain, use.node.op_type) for use in value.uses()}
        if value.is_graph_output():
            consumers.add("")
    return Operand(
        dtype=None if dtype is None or dtype == ir.DataType.UNDEFINED else dtype_name(dtype),
        shape=shape,
        constant="constant" in looks and is_constant(value),
        filled=filled(value) if "filled" in looks else None,
        producer=producer,
        consumers=tuple(sorted(consumers)),
    )


def filled(value: ir.Value | None) -> float | None:
    """The number that every element of a small constant is; None where they differ, and for what is not read."""
    tensor = constant_of(value)
    if tensor is None or not 0 < tensor.size <= SMALL or is_stored(tensor) or not tensor.dtype.is_floating_point():
        return None
    numbers = tensor.numpy().reshape(-1)
    return float(numbers[0]) if bool((numbers == numbers[0]).all()) else None


@functools.cache
def dtype_name(dtype: ir.DataType) -> str:
    """The name that operator sets use: ``float32``, ``float64``, ``int8``, ``float8e4m3fn`` ..."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def _plain(attribute: ir.Attr) -> Any:
    """The value as constraints see it. Graphs and tensors count by kind only."""
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if isinstance(attribute.value, (int, float, str)):
        return attribute.value
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
        return list(attribute.value)
    if attribute.type == ir.AttributeType.TENSOR:
        return f"tensor({dtype_name(attribute.value.dtype)})"
    return attribute.type.name.lower()
