"""Comparisons, Boolean and bitwise operators, and Where. Operands broadcast as in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from porting_kernels.carriers import WIDE_UNSIGNED, movable, restored, through_numpy
from porting_kernels.errors import PortingError
from porting_kernels.legacy_broadcast import kernel_with_legacy_broadcast
from porting_kernels.registry import kernel

Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _comparison(torch_function: Binary, numpy_function: Callable[..., Any]) -> Binary:
    """A comparison with bool result; false where either side is NaN, except that NaN is unequal to all."""

    def call(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return through_numpy(numpy_function, a, b) if a.dtype in WIDE_UNSIGNED else torch_function(a, b)

    return call


kernel_with_legacy_broadcast("Equal")(_comparison(torch.eq, np.equal))
kernel_with_legacy_broadcast("Greater")(_comparison(torch.gt, np.greater))
kernel_with_legacy_broadcast("Less")(_comparison(torch.lt, np.less))
kernel("GreaterOrEqual", since=12)(_comparison(torch.ge, np.greater_equal))
kernel("LessOrEqual", since=12)(_comparison(torch.le, np.less_equal))


@kernel_with_legacy_broadcast("And")
def logical_and(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a and b, of bool."""
    return torch.logical_and(a, b)


@kernel_with_legacy_broadcast("Or")
def logical_or(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a or b, of bool."""
    return torch.logical_or(a, b)


@kernel_with_legacy_broadcast("Xor")
def logical_xor(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Exactly one of a and b, of bool."""
    return torch.logical_xor(a, b)


@kernel("Not")
def logical_not(x: torch.Tensor) -> torch.Tensor:
    """Not x, of bool."""
    return torch.logical_not(x)


@kernel("BitwiseAnd", since=18)
def bitwise_and(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The bits set in both integers."""
    return torch.bitwise_and(a, b)


@kernel("BitwiseOr", since=18)
def bitwise_or(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The bits set in either integer."""
    return torch.bitwise_or(a, b)


@kernel("BitwiseXor", since=18)
def bitwise_xor(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The bits set in exactly one of two integers."""
    return torch.bitwise_xor(a, b)


@kernel("BitwiseNot", since=18)
def bitwise_not(x: torch.Tensor) -> torch.Tensor:
    """Every bit of an integer inverted."""
    return restored(torch.bitwise_not(movable(x)), x.dtype)


@kernel("BitShift", since=11)
def bit_shift(x: torch.Tensor, shift: torch.Tensor, *, direction: str) -> torch.Tensor:
    """x << shift or x >> shift, of unsigned integers; all bits are gone from a shift by the width on."""
    if direction not in ("LEFT", "RIGHT"):
        raise PortingError("unknown direction of BitShift", required="LEFT or RIGHT", met=direction)
    return through_numpy(np.left_shift if direction == "LEFT" else np.right_shift, x, shift)


@kernel("Where", since=9)
def where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a where the condition holds, else b."""
    return torch.where(condition, a, b)
