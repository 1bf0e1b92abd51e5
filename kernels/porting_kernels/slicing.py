"""Slice, Compress, ReverseSequence, Trilu and CenterCropPad: parts of a tensor, chosen by position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from porting_kernels.carriers import moves
from porting_kernels.errors import ShapeError
from porting_kernels.registry import kernel


def _sliced(
    x: torch.Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> torch.Tensor:
    """Bounds as in Python, except that they are clamped: for a negative step an end below 0 is before the first."""
    index = [slice(None)] * x.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = x.shape[axis]
        if step > 0:
            # Exporters write the largest int64 for "to the end"; torch warns of what it cannot hold.
            index[axis] = slice(max(-length, min(start, length)), max(-length, min(end, length)), step)
            continue
        if step == 0:
            raise ShapeError("a step of Slice is 0", met=list(steps))
        start = min(start + length if start < 0 else start, length - 1)
        end = max(end + length if end < 0 else end, -1)
        x = x.index_select(axis, torch.arange(start, end, step) if start > end else torch.arange(0))
    return x[tuple(index)]


@kernel("Slice")
def slice_by_attributes(
    x: torch.Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> torch.Tensor:
    """Slice of opset 1 to 9: bounds are attributes, steps are 1."""
    return _sliced(x, starts, ends, range(len(starts)) if axes is None else axes, [1] * len(starts))


@kernel("Slice", since=10)
@moves
def slice_(
    x: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    """x from start to end (exclusive) by step along each named axis; negative bounds count from the end."""
    first = starts.tolist()
    return _sliced(
        x,
        first,
        ends.tolist(),
        range(len(first)) if axes is None else axes.tolist(),
        [1] * len(first) if steps is None else steps.tolist(),
    )


@kernel("Compress", since=9)
@moves
def compress(x: torch.Tensor, condition: torch.Tensor, *, axis: int | None = None) -> torch.Tensor:
    """The places of an axis (of the flattened x without one) where a bool vector holds; it may be shorter."""
    places = condition.nonzero().reshape(-1)
    return x.reshape(-1).index_select(0, places) if axis is None else x.index_select(axis, places)


@kernel("ReverseSequence", since=10)
@moves
def reverse_sequence(
    x: torch.Tensor, lengths: torch.Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> torch.Tensor:
    """The first lengths[b] steps of each batch entry b in reverse, the rest in place."""
    steps = torch.arange(x.shape[time_axis])[:, None]
    places = torch.where(steps < lengths, lengths - 1 - steps, steps)
    if batch_axis < time_axis:
        places = places.T
    view = [1] * x.dim()
    view[time_axis], view[batch_axis] = x.shape[time_axis], x.shape[batch_axis]
    return x.gather(time_axis, places.reshape(view).expand(x.shape))


@kernel("Trilu", since=14)
@moves
def trilu(x: torch.Tensor, k: torch.Tensor | None = None, *, upper: int = 1) -> torch.Tensor:
    """The upper or lower triangle of the last two axes, zero elsewhere; k moves the diagonal up."""
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@kernel("CenterCropPad", since=18)
@moves
def center_crop_pad(x: torch.Tensor, shape: torch.Tensor, *, axes: Sequence[int] | None = None) -> torch.Tensor:
    """Each axis cropped or zero-padded to a size around its centre; odd differences leave one more at the end."""
    for axis, size in zip(range(x.dim()) if axes is None else axes, shape.tolist(), strict=True):
        difference = size - x.shape[axis]
        if difference < 0:
            x = x.narrow(axis, -difference // 2, size)
        elif difference > 0:
            pads = [0] * (2 * x.dim())
            place = 2 * (x.dim() - 1 - axis % x.dim())
            pads[place : place + 2] = [difference // 2, difference - difference // 2]
            x = F.pad(x, pads)
    return x
