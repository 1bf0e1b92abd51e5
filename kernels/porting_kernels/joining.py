"""Concat, Split and Tile."""

from __future__ import annotations

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.registry import Context, kernel


@kernel("Concat")
def concat(*operands: torch.Tensor, axis: int = 1) -> torch.Tensor:
    """Operands one after the other along an axis."""
    return torch.cat(operands, axis)


def _equal_parts(length: int, parts: int) -> list[int]:
    """Sizes of equal parts, rounded up; the last one is what remains."""
    size = -(-length // parts)
    return [min(size, max(length - size * index, 0)) for index in range(parts)]


def _split(x: torch.Tensor, sizes: list[int], axis: int) -> tuple[torch.Tensor, ...]:
    if sum(sizes) != x.shape[axis]:
        raise ShapeError("sizes of Split do not fill the axis", required=x.shape[axis], met=sizes)
    return torch.split(x, sizes, axis)


@kernel("Split")
def split_by_attribute(
    x: torch.Tensor,
    sizes: torch.Tensor | None = None,
    *,
    axis: int = 0,
    split: list[int] | None = None,
    context: Context,
) -> tuple[torch.Tensor, ...]:
    """Split of opset 1 to 12: sizes are an attribute (in opset 1 also an operand)."""
    if split is None and sizes is not None:
        split = sizes.tolist()
    return _split(x, split or _equal_parts(x.shape[axis], context.outputs), axis)


@kernel("Split", since=13)
def split(
    x: torch.Tensor,
    sizes: torch.Tensor | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    context: Context,
) -> tuple[torch.Tensor, ...]:
    """Parts of x along an axis, of given sizes, or as many equal ones as there are outputs."""
    if sizes is None:
        return _split(x, _equal_parts(x.shape[axis], num_outputs or context.outputs), axis)
    return _split(x, sizes.tolist(), axis)


@kernel("Tile")
def tile_along_axis(x: torch.Tensor, tiles: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """Tile of opset 1 to 5: x repeated along one axis."""
    repeats = [1] * x.dim()
    repeats[int(axis)] = int(tiles)
    return x.repeat(repeats)


@kernel("Tile", since=6)
def tile(x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    """x repeated along each axis."""
    return x.repeat(repeats.tolist())
