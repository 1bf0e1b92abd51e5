"""Conditions that patterns share: numbers among operands, and the operators behind values."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx_ir as ir

from porting_passes.constants import array_of
from porting_passes.node_facts import rank


def number_of(value: ir.Value | None, like: ir.Value | None = None) -> float | None:
    """The number that a one-element constant holds, else None.

    like: the operand that it is combined with; a constant of higher rank would change the shape, and is no number.
    """
    array = array_of(value, limit=16)
    if array is None or array.size != 1 or array.dtype.kind in "bOSU":
        return None
    if array.ndim > (rank(like) or 0):
        return None
    return float(array.reshape(()))


def is_number(value: ir.Value | None, expected: float, like: ir.Value | None = None) -> bool:
    """Whether a constant is ``expected``, rounded to the constant's own dtype or given with five digits."""
    number = number_of(value, like)
    if number is None:
        return False
    epsilon = float(ml_dtypes.finfo(array_of(value).dtype).eps) if _is_float(value) else 0.0  # type: ignore[union-attr]
    return math.isclose(number, expected, rel_tol=max(epsilon, 1e-5))


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def producer(value: ir.Value) -> ir.Node:
    """The node that makes a value which a pattern bound to a node's output."""
    node = value.producer()
    assert node is not None, f"{value.name} has no producer"
    return node


def has_dtype(value: ir.Value | None, *dtypes: ir.DataType) -> bool:
    """Whether the dtype of a value is known and one of these."""
    return value is not None and value.dtype in dtypes


def finite(value: ir.Value) -> bool:
    """Whether a small constant holds neither infinities nor NaN; False for anything else."""
    array = array_of(value)
    return array is not None and bool(np.isfinite(array.astype(np.float64)).all())
