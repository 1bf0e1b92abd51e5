"""Scatter, ScatterElements, ScatterND and TensorScatter: a copy of a tensor with some places written.

Where one place is written more than once without a reduction, which value stays is undefined, as in ONNX.
"""

from __future__ import annotations

import math

import torch

from porting_kernels.carriers import movable, restored
from porting_kernels.errors import PortingError
from porting_kernels.gathering import counted_from_start, flat_places
from porting_kernels.registry import kernel

_REDUCTIONS = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}


def _scattered(x: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "none":
        return restored(torch.scatter(movable(x), axis, places, movable(updates)), x.dtype)
    if reduction not in _REDUCTIONS:
        raise PortingError("unknown reduction", required="none, " + ", ".join(_REDUCTIONS), met=reduction)
    return torch.scatter_reduce(x, axis, places, updates, _REDUCTIONS[reduction], include_self=True)


def _scatter_elements(
    x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, axis: int = 0, reduction: str = "none"
) -> torch.Tensor:
    """x with y[indices[i, j], j] = updates[i, j] for axis 0 of two, and so on, or reduced with what was there."""
    return _scattered(x, axis, counted_from_start(indices, x.shape[axis]), updates, reduction)


kernel("Scatter", since=9)(_scatter_elements)
kernel("ScatterElements", since=11)(_scatter_elements)


@kernel("ScatterND", since=11)
def scatter_nd(
    x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, reduction: str = "none"
) -> torch.Tensor:
    """x with the slices at index tuples, the last axis of ``indices``, written or reduced with what was there."""
    depth = indices.shape[-1]
    places = flat_places(indices, x.shape[:depth]).reshape(-1)
    rest = math.prod(x.shape[depth:])
    rows = x.reshape(-1, rest) if x.numel() else x.reshape(math.prod(x.shape[:depth]), rest)
    written = _scattered(rows, 0, places[:, None].expand(-1, rest), updates.reshape(places.numel(), rest), reduction)
    return written.reshape(x.shape)


@kernel("TensorScatter", since=24)
def tensor_scatter(
    x: torch.Tensor,
    update: torch.Tensor,
    write_indices: torch.Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> torch.Tensor:
    """A cache with new entries: batch entry b gets ``update`` from write_indices[b] (0 without) on, along an axis.

    linear: all of it must fit. circular: it goes on at the front.
    """
    length, count = x.shape[axis], update.shape[axis]
    starts = torch.zeros(x.shape[0], dtype=torch.int64) if write_indices is None else write_indices
    places = starts[:, None] + torch.arange(count)
    if mode == "circular":
        places = places % length
    elif mode != "linear":
        raise PortingError("unknown mode of TensorScatter", required="linear or circular", met=mode)
    view = [1] * x.dim()
    view[0], view[axis] = x.shape[0], count
    return _scattered(x, axis, places.reshape(view).expand(update.shape), update, "none")
