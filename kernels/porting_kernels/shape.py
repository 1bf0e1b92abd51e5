"""Operators that change or read a shape and move no element: views wherever torch can give one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.registry import kernel


@kernel("Identity")
def identity(x: Any) -> Any:
    """x itself: a tensor, a sequence or an optional."""
    return x


@kernel("Shape")
def shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> torch.Tensor:
    """The sizes of axes start to end (exclusive), int64; negative bounds count from the end."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


@kernel("Size")
def size(x: torch.Tensor) -> torch.Tensor:
    """The number of elements, an int64 scalar."""
    return torch.tensor(x.numel())


def _reshaped(x: torch.Tensor, sizes: list[int], allowzero: int) -> torch.Tensor:
    if not allowzero and 0 in sizes:
        if len(sizes) > x.dim() and any(s == 0 for s in sizes[x.dim() :]):
            raise ShapeError("Reshape copies the size of an axis that its input does not have", met=sizes)
        sizes = [x.shape[axis] if s == 0 else s for axis, s in enumerate(sizes)]
    if -1 in sizes and x.numel() == 0:
        known = math.prod(s for s in sizes if s != -1)
        sizes = [(0 if known == 0 else x.numel() // known) if s == -1 else s for s in sizes]
    return x.reshape(sizes)


@kernel("Reshape")
def reshape_by_attribute(
    x: torch.Tensor, *, shape: Sequence[int] = (), consumed_inputs: list[int] | None = None
) -> torch.Tensor:
    """Reshape of opset 1 to 4: the shape is an attribute."""
    return _reshaped(x, list(shape), 0)


@kernel("Reshape", since=5)
def reshape(x: torch.Tensor, shape: torch.Tensor, *, allowzero: int = 0) -> torch.Tensor:
    """The same elements in another shape. One size may be -1; 0 copies the input's size unless allowzero."""
    return _reshaped(x, shape.tolist(), allowzero)


@kernel("Flatten")
def flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """Two axes: those before ``axis``, and the rest."""
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@kernel("Squeeze")
def squeeze_by_attribute(x: torch.Tensor, *, axes: Sequence[int] | None = None) -> torch.Tensor:
    """Squeeze of opset 1 to 12: axes are an attribute."""
    return _squeezed(x, axes)


@kernel("Squeeze", since=13)
def squeeze(x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    """Without the given axes of size 1, or without all of them."""
    return _squeezed(x, None if axes is None else axes.tolist())


def _squeezed(x: torch.Tensor, axes: Sequence[int] | None) -> torch.Tensor:
    if axes is None:
        return x.squeeze()
    wrong = [axis for axis in axes if x.shape[axis] != 1]
    if wrong:
        raise ShapeError("Squeeze takes axes of size 1", required="size 1", met=f"axes {wrong} of {list(x.shape)}")
    return x.squeeze(tuple(axes))


@kernel("Unsqueeze")
def unsqueeze_by_attribute(x: torch.Tensor, *, axes: Sequence[int]) -> torch.Tensor:
    """Unsqueeze of opset 1 to 12: axes are an attribute."""
    return _unsqueezed(x, list(axes))


@kernel("Unsqueeze", since=13)
def unsqueeze(x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """With axes of size 1 put in, at places counted in the result."""
    return _unsqueezed(x, axes.reshape(-1).tolist())


def _unsqueezed(x: torch.Tensor, axes: list[int]) -> torch.Tensor:
    rank = x.dim() + len(axes)
    places = sorted(axis + rank if axis < 0 else axis for axis in axes)
    if len(set(places)) != len(places):
        raise ShapeError("Unsqueeze names an axis twice", met=axes)
    for axis in places:
        x = x.unsqueeze(axis)
    return x


@kernel("Transpose")
def transpose(x: torch.Tensor, *, perm: Sequence[int] | None = None) -> torch.Tensor:
    """Axes in another order, reversed by default: axis i of the result is axis perm[i] of x."""
    return x.permute(tuple(range(x.dim()))[::-1] if perm is None else tuple(perm))


@kernel("Expand", since=8)
def expand(x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """x broadcast with a shape, in both directions."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))
