"""TopK, NonZero, Unique and OneHot: places and values found by looking at the elements."""

from __future__ import annotations

import numpy as np
import torch

from porting_kernels.errors import ShapeError
from porting_kernels.registry import kernel


@kernel("TopK")
def top_k_by_attribute(x: torch.Tensor, *, k: int, axis: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
    """TopK of opset 1 to 9: k is an attribute."""
    return _top_k(x, k, axis, largest=True)


@kernel("TopK", since=10)
def top_k(
    x: torch.Tensor, k: torch.Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k greatest (or least) elements along an axis and their int64 places, best first; ties by lower place.

    Without ``sorted`` any order is allowed; this one is kept.
    """
    return _top_k(x, int(k), axis, largest=bool(largest))


def _top_k(x: torch.Tensor, k: int, axis: int, *, largest: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if k > x.shape[axis]:
        raise ShapeError("TopK of more elements than there are", required=f"at most {x.shape[axis]}", met=k)
    # A stable sort, because torch.topk says nothing about ties.
    values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), places.narrow(axis, 0, k)


@kernel("NonZero", since=9)
def non_zero(x: torch.Tensor) -> torch.Tensor:
    """Index tuples of elements that are not zero, int64 (rank, count), in row-major order."""
    return torch.nonzero(x if x.element_size() == 1 or x.is_floating_point() else x != 0).T


@kernel("Unique", since=11)
def unique(
    x: torch.Tensor, *, axis: int | None = None, sorted: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Different elements (or slices of an axis), their first places, the place of each in y, and counts, int64.

    Ascending, or in order of first appearance.
    """
    wide = x.to(torch.float32) if x.dtype is torch.bfloat16 else x
    _, first, inverse, counts = np.unique(
        wide.numpy(), return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first)
        first, counts = first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    places = torch.from_numpy(first)
    values = torch.from_numpy(wide.reshape(-1).numpy()[first] if axis is None else wide.numpy().take(first, axis))
    return values.to(x.dtype), places, torch.from_numpy(inverse), torch.from_numpy(counts)


@kernel("OneHot", since=9)
def one_hot(indices: torch.Tensor, depth: torch.Tensor, values: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """A new axis of size depth with values[1] at each index and values[0] elsewhere.

    Indices from -depth to -1 count from the end; one outside gives no hit.
    """
    size = int(depth)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    wanted = indices.to(torch.int64).unsqueeze(axis)
    wanted = torch.where((wanted < 0) & (wanted >= -size), wanted + size, wanted)
    view = [1] * (indices.dim() + 1)
    view[axis] = size
    off, on = values.unbind(0)
    return torch.where(torch.arange(size).reshape(view) == wanted, on, off)
