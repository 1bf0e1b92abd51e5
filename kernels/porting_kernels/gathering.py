"""Gather, GatherElements and GatherND. Negative indices count from the end; one outside is an error."""

from __future__ import annotations

import math

import torch

from porting_kernels.carriers import moves
from porting_kernels.errors import ShapeError
from porting_kernels.registry import kernel
from porting_kernels.streamed import StreamedWeight


def counted_from_start(indices: torch.Tensor, length: int) -> torch.Tensor:
    """int64 indices in which a negative one, counted from the end, has become the place that it means."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + length, indices)


@kernel("Gather", streams=(0,))
def gather(x: torch.Tensor | StreamedWeight, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    """Whole slices of an axis, which is replaced by the axes of ``indices``. Of a streamed x the rows that it needs."""
    if isinstance(x, torch.Tensor):
        return _gather(x, indices, axis=axis)
    if axis not in (0, -len(x.shape)):
        return _gather(x.tensor(), indices, axis=axis)
    places, order = torch.unique(counted_from_start(indices, x.shape[0]), return_inverse=True)
    return _gather(x.rows(places), order, axis=0)


@moves
def _gather(x: torch.Tensor, indices: torch.Tensor, *, axis: int) -> torch.Tensor:
    axis = axis + x.dim() if axis < 0 else axis
    places = counted_from_start(indices, x.shape[axis])
    if indices.dim() == 1:
        return x.index_select(axis, places)
    return x.index_select(axis, places.reshape(-1)).reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


@kernel("GatherElements", since=11)
@moves
def gather_elements(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    """Single elements: y[i, j] = x[indices[i, j], j] for axis 0 of two, and so on. Shape of ``indices``."""
    return torch.gather(x, axis, counted_from_start(indices, x.shape[axis]))


def flat_places(indices: torch.Tensor, sizes: torch.Size) -> torch.Tensor:
    """Row-major places in axes of the given sizes, of index tuples along the last axis of ``indices``.

    Raises ShapeError for an index outside its axis.
    """
    limits = torch.tensor(sizes)
    indices = indices.to(torch.int64)
    indices = torch.where(indices < 0, indices + limits, indices)
    if bool(((indices < 0) | (indices >= limits)).any()):
        raise ShapeError("an index lies outside its axis", required=f"within {list(sizes)}")
    strides = torch.tensor([math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))], dtype=torch.int64)
    return (indices * strides).sum(-1)


@kernel("GatherND", since=11)
@moves
def gather_nd(x: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0) -> torch.Tensor:
    """Slices at index tuples, the last axis of ``indices``; the first batch_dims axes of both go along."""
    depth = indices.shape[-1]
    batch = math.prod(x.shape[:batch_dims])
    indexed = x.shape[batch_dims : batch_dims + depth]
    rest = x.shape[batch_dims + depth :]
    places = flat_places(indices, indexed).reshape(batch, -1) + torch.arange(batch)[:, None] * math.prod(indexed)
    rows = x.reshape(batch * math.prod(indexed), math.prod(rest))
    return rows.index_select(0, places.reshape(-1)).reshape(indices.shape[:-1] + rest)
