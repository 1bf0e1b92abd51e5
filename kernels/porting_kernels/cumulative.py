"""CumSum and CumProd along an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel


def _accumulated(
    function: Callable[..., Any], neutral: int, x: torch.Tensor, axis: int, exclusive: int, reverse: int
) -> torch.Tensor:
    """exclusive: element i takes those before it only. reverse: from the end."""
    if reverse:
        x = x.flip(axis)
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    result: torch.Tensor = function(x, axis, dtype=x.dtype)
    return result.flip(axis) if reverse else result


@kernel("CumSum", since=11)
@rounds_once
def cumulative_sum(x: torch.Tensor, axis: torch.Tensor, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    """Running sum in the dtype of x."""
    return _accumulated(torch.cumsum, 0, x, int(axis), exclusive, reverse)


@kernel("CumProd", since=26)
@rounds_once
def cumulative_product(x: torch.Tensor, axis: torch.Tensor, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    """Running product in the dtype of x."""
    return _accumulated(torch.cumprod, 1, x, int(axis), exclusive, reverse)
