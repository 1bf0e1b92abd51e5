"""How operands of types that torch cannot compute with are computed all the same.

torch stores uint16, uint32, uint64 and the 8-bit floats but has few operators for them. Moving data needs the bits
only, so such operands pass through an integer type of the same width. Arithmetic and order need the values, so wide
unsigned operands pass through numpy, which has all of them and shares the memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_MOVED_AS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}
WIDE_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})


def movable(x: torch.Tensor) -> torch.Tensor:
    """The same bits in a type that every data-moving operator of torch takes; most types as they are."""
    carrier = _MOVED_AS.get(x.dtype)
    return x if carrier is None else x.view(carrier)


def restored(moved: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bits that were moved, in the type that they came from."""
    return moved.view(dtype) if dtype in _MOVED_AS else moved


def moves(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A kernel that only moves elements of its first operand, made to take every type."""

    @functools.wraps(function)
    def run(x: torch.Tensor, *operands: Any, **attributes: Any) -> torch.Tensor:
        dtype = x.dtype
        carrier = _MOVED_AS.get(dtype)
        if carrier is None:
            return function(x, *operands, **attributes)
        return function(x.view(carrier), *operands, **attributes).view(dtype)

    return run


def through_numpy(function: Callable[..., Any], *operands: Any, **keywords: Any) -> torch.Tensor:
    """A numpy function on torch operands; the result has numpy's dtype. Integers wrap around without a warning."""
    arrays = [operand.numpy() if isinstance(operand, torch.Tensor) else operand for operand in operands]
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.asarray(function(*arrays, **keywords)))
