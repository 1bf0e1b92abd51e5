"""Add, Sub, Mul, Div, Mod, Pow, and Max, Min, Sum, Mean of any number of operands.

Operands broadcast as in numpy and have one dtype, which is the result's; Pow's exponent may have another. Integers
wrap around; integer Div truncates toward zero. Max and Min give NaN where any operand is NaN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from porting_kernels.carriers import WIDE_UNSIGNED, through_numpy
from porting_kernels.legacy_broadcast import kernel_with_legacy_broadcast
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel

Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@kernel_with_legacy_broadcast("Add")
def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a + b."""
    return through_numpy(np.add, a, b) if a.dtype in WIDE_UNSIGNED else torch.add(a, b)


@kernel_with_legacy_broadcast("Sub")
def subtract(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a - b."""
    return through_numpy(np.subtract, a, b) if a.dtype in WIDE_UNSIGNED else torch.sub(a, b)


@kernel_with_legacy_broadcast("Mul")
def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a * b."""
    return through_numpy(np.multiply, a, b) if a.dtype in WIDE_UNSIGNED else torch.mul(a, b)


@kernel_with_legacy_broadcast("Div")
def divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b; integers truncate toward zero, and an integer divided by zero is an error."""
    if a.is_floating_point() or a.is_complex():
        return torch.div(a, b)
    # Unsigned quotients are never negative, so that numpy's floor is the truncation wanted here.
    return through_numpy(np.floor_divide, a, b) if a.dtype in WIDE_UNSIGNED else torch.div(a, b, rounding_mode="trunc")


@kernel_with_legacy_broadcast("Pow")
def power(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a ** b in the dtype of a; with operands of two dtypes the wider kind computes, then the result is cast."""
    if a.dtype in WIDE_UNSIGNED or b.dtype in WIDE_UNSIGNED:
        return torch.from_numpy(through_numpy(np.power, a, b).numpy().astype(_numpy_dtype(a)))
    return torch.pow(a, b).to(a.dtype)


def _numpy_dtype(x: torch.Tensor) -> np.dtype[Any]:
    return x.numpy().dtype


@kernel("Mod")
def modulo(a: torch.Tensor, b: torch.Tensor, *, fmod: int = 0) -> torch.Tensor:
    """Remainder with the sign of the divisor (fmod=0, as Python's %) or of the dividend (fmod=1, as C's)."""
    if a.dtype in WIDE_UNSIGNED:
        return through_numpy(np.fmod if fmod else np.remainder, a, b)
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _maximum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return through_numpy(np.maximum, a, b) if a.dtype in WIDE_UNSIGNED else torch.maximum(a, b)


def _minimum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return through_numpy(np.minimum, a, b) if a.dtype in WIDE_UNSIGNED else torch.minimum(a, b)


@kernel("Max")
def maximum(*operands: torch.Tensor, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """The greatest of any number of operands."""
    return functools.reduce(_maximum, operands)


@kernel("Min")
def minimum(*operands: torch.Tensor, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """The least of any number of operands."""
    return functools.reduce(_minimum, operands)


@kernel("Sum")
@rounds_once
def total(*operands: torch.Tensor, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """The sum of any number of operands, from left to right."""
    return functools.reduce(torch.add, operands)


@kernel("Mean")
@rounds_once
def mean(*operands: torch.Tensor, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """The sum of any number of operands, from left to right, divided by their number."""
    return functools.reduce(torch.add, operands) / len(operands)
