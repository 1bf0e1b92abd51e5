"""Constant, ConstantOfShape, EyeLike and Range."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from porting_kernels import dtypes
from porting_kernels.errors import PortingError
from porting_kernels.registry import kernel


@kernel("Constant")
def constant(
    *,
    value: torch.Tensor | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> torch.Tensor:
    """The tensor of whichever attribute is given: float32 from floats, int64 from integers."""
    if value is not None:
        return value
    for given in (value_float, value_floats):
        if given is not None:
            return torch.tensor(given, dtype=torch.float32)
    for given in (value_int, value_ints):
        if given is not None:
            return torch.tensor(given, dtype=torch.int64)
    raise PortingError("Constant without a value that can be computed", required="a tensor, floats or integers")


@kernel("ConstantOfShape", since=9)
def constant_of_shape(shape: torch.Tensor, *, value: torch.Tensor | None = None) -> torch.Tensor:
    """A tensor of a shape filled with one value; float32 zero by default."""
    sizes = shape.tolist()
    return torch.zeros(sizes) if value is None else value.reshape(()).expand(sizes)


@kernel("EyeLike", since=9)
def eye_like(x: torch.Tensor, *, dtype: int | None = None, k: int = 0) -> torch.Tensor:
    """Ones on diagonal k (above the main one where positive) of a matrix with the shape of x, zero elsewhere."""
    rows, columns = x.shape
    ones = torch.arange(columns) - torch.arange(rows)[:, None] == k
    return ones.to(x.dtype if dtype is None else dtypes.torch_dtype(dtype))


@kernel("Range", since=11)
def range_(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor, *, stash_type: int = 1) -> torch.Tensor:
    """start + i * delta, as many as lie before the limit.

    Half-precision operands count and compute in float32 (``stash_type`` names no other float that is narrower).
    """
    if start.is_floating_point():
        count = max(math.ceil((float(limit) - float(start)) / float(delta)), 0)
        wide = torch.float64 if start.dtype is torch.float64 else torch.float32
        return (start.to(wide) + torch.arange(count).to(wide) * delta.to(wide)).to(start.dtype)
    steps = range(int(start), int(limit), int(delta))
    # torch refuses a step that leads away from the limit; ONNX and Python count none.
    if not steps:
        return torch.empty(0, dtype=start.dtype)
    return torch.arange(steps.start, steps.stop, steps.step).to(start.dtype)
