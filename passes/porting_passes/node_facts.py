"""What a model says about a node without running it: attributes, ranks, extents, constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.inference import SMALL, constant_tensor, dims_of
from porting_passes.stored import is_stored


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute, or ``default`` (give the schema's own) when the node does not say."""
    attr = node.attributes.get(name)
    return default if attr is None else attr.value


def number(node: ir.Node, name: str, default: float) -> float:
    """A FLOAT attribute as the float32 that ONNX stores, whatever a Python caller put there."""
    return float(np.float32(attribute(node, name, default)))


def is_float32(number: float) -> bool:
    """Whether a number can be a FLOAT attribute without rounding; False for NaN."""
    with np.errstate(over="ignore"):
        return float(np.float32(number)) == number


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index`` of a node; None when it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def required(node: ir.Node, index: int) -> ir.Value:
    """Input ``index`` of a node, which its schema requires."""
    value = node.inputs[index]
    assert value is not None, f"{node.op_type} lacks input {index}"
    return value


def rank(value: ir.Value | None) -> int | None:
    """The rank of a value, or None when it is unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def static_dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The extents of a value when all of them are numbers, else None."""
    dims = None if value is None else dims_of(value)
    known = tuple(d for d in dims or () if isinstance(d, int))
    return None if dims is None or len(known) != len(dims) else known


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is known before the model runs."""
    return value is not None and constant_tensor(value) is not None


def small_constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The contents of a constant of at most 64 elements, else None: decisions never depend on larger weights."""
    tensor = None if value is None else constant_tensor(value)
    if tensor is None or tensor.size > SMALL or is_stored(tensor):
        return None
    return tensor.numpy()


def used(value: ir.Value) -> bool:
    """Whether anything reads an output."""
    return bool(value.uses()) or value.is_graph_output()


def only_first_output(node: ir.Node) -> str | None:
    """A reason why not when a node's second or later output is read."""
    extra = [index for index, value in enumerate(node.outputs) if index and used(value)]
    return f"output {extra[0]} is used" if extra else None


def reshape_target(value: ir.Value, dims: tuple[int | str | None, ...]) -> list[int] | str:
    """A constant Reshape target for ``dims``, or why there is none.

    Extents are numbers; a symbol at the same position as in ``value`` is copied (0); one other unknown becomes -1.
    """
    source = dims_of(value) or ()
    target: list[int] = []
    for index, dim in enumerate(dims):
        if isinstance(dim, int):
            if dim == 0:
                return "an extent is 0"
            target.append(dim)
        elif dim is not None and index < len(source) and source[index] == dim:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else "more than one extent of the result is unknown"
