"""How a parameter is made of stored tensors: a small algebra of names, shapes and the moves between them.

A recipe also answers to the torch functions by which transformers' own conversions stack, join, split and turn tensors
(``torch.stack``, ``torch.cat``, ``torch.chunk``, ``torch.split``, ``torch.transpose``): run on recipes in place of
tensors, a conversion writes down what it does. Any other operation is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from porting.errors import ShapeError, UnsupportedOperatorError
from porting.weights.store import WeightStore
from porting.weights.view import WeightView


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """A tensor to be. shape: its extents."""

    shape: tuple[int, ...]

    def sources(self) -> Iterator[str]:
        """Names of the stored tensors in it, in order, repeats included."""
        for part in getattr(self, "parts", ()):
            yield from part.sources()

    def contiguous(self) -> Recipe:
        """Itself: recipes have no memory layout."""
        return self

    def squeeze(self, dim: int) -> Recipe:
        """Without an axis of extent 1."""
        return Reshaped(self.shape[:dim] + self.shape[dim + 1 :], (self,)) if self.shape[dim] == 1 else self

    def to(self, *_: Any, **__: Any) -> Recipe:
        """Itself: the type is the view's."""
        return self

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        move = _MOVES.get(function)
        if move is None:
            raise UnsupportedOperatorError(
                f"a weight conversion uses {getattr(function, '__name__', function)}",
                required="stack, cat, chunk, split or transpose: what weights in place can do",
            )
        return move(*args, **(kwargs or {}))


@dataclasses.dataclass(frozen=True, slots=True)
class Stored(Recipe):
    """A tensor of the checkpoint, by name."""

    name: str

    def sources(self) -> Iterator[str]:
        """The one name."""
        yield self.name


@dataclasses.dataclass(frozen=True, slots=True)
class Concatenated(Recipe):
    """Parts one after the other along an axis."""

    parts: tuple[Recipe, ...]
    axis: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stacked(Recipe):
    """Parts of one shape along a new axis."""

    parts: tuple[Recipe, ...]
    axis: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sliced(Recipe):
    """Places start to stop of an axis of the one part."""

    parts: tuple[Recipe]
    axis: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, slots=True)
class Transposed(Recipe):
    """The last two axes of the one part swapped."""

    parts: tuple[Recipe]


@dataclasses.dataclass(frozen=True, slots=True)
class Reshaped(Recipe):
    """Other leading axes over the same rows of the one part."""

    parts: tuple[Recipe]


def to_view(recipe: Recipe, store: WeightStore, dtype: torch.dtype = torch.float32) -> WeightView:
    """The recipe as a view over a store. Scales of 8-bit floats are those of each stored tensor."""
    if isinstance(recipe, Stored):
        return WeightView.of(store, recipe.name, dtype)
    parts = [to_view(part, store, dtype) for part in getattr(recipe, "parts", ())]
    if isinstance(recipe, Concatenated):
        return WeightView.concatenated(parts, recipe.axis)
    if isinstance(recipe, Stacked):
        return WeightView.stacked(parts, recipe.axis)
    if isinstance(recipe, Sliced):
        return parts[0].sliced(recipe.axis, recipe.start, recipe.stop)
    if isinstance(recipe, Transposed):
        return parts[0].transposed()
    if isinstance(recipe, Reshaped):
        return parts[0].reshaped(recipe.shape)
    raise UnsupportedOperatorError(f"no view for {type(recipe).__name__}")


def _stack(tensors: Sequence[Recipe], dim: int = 0) -> Recipe:
    first = tensors[0].shape
    dim = dim % (len(first) + 1)
    for other in tensors:
        if other.shape != first:
            raise _unlike("stack", tensors[0], other)
    return Stacked((*first[:dim], len(tensors), *first[dim:]), tuple(tensors), dim)


def _cat(tensors: Sequence[Recipe], dim: int = 0) -> Recipe:
    first = tensors[0].shape
    dim = dim % len(first)
    for other in tensors:
        if other.shape[:dim] + other.shape[dim + 1 :] != first[:dim] + first[dim + 1 :]:
            raise _unlike("join", tensors[0], other)
    if len(tensors) == 1:
        return tensors[0]
    total = sum(other.shape[dim] for other in tensors)
    return Concatenated((*first[:dim], total, *first[dim + 1 :]), tuple(tensors), dim)


def _split(tensor: Recipe, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Recipe, ...]:
    dim = dim % len(tensor.shape)
    size, given = tensor.shape[dim], split_size_or_sections
    sizes = [min(given, size - at) for at in range(0, size, given)] if isinstance(given, int) else list(given)
    if sum(sizes) != size:
        raise ShapeError("parts of a weight do not add up", required=size, met=sizes, where=next(tensor.sources()))
    found, at = [], 0
    for extent in sizes:
        shape = (*tensor.shape[:dim], extent, *tensor.shape[dim + 1 :])
        found.append(Sliced(shape, (tensor,), dim, at, at + extent))
        at += extent
    return tuple(found)


def _chunk(input: Recipe, chunks: int, dim: int = 0) -> tuple[Recipe, ...]:
    return _split(input, -(-input.shape[dim] // chunks), dim)


def _transpose(input: Recipe, dim0: int, dim1: int) -> Recipe:
    rank = len(input.shape)
    if {dim0 % rank, dim1 % rank} != {rank - 2, rank - 1}:
        raise UnsupportedOperatorError(
            f"a weight conversion swaps axes {dim0} and {dim1} of {list(input.shape)}", required="the last two"
        )
    return Transposed((*input.shape[:-2], input.shape[-1], input.shape[-2]), (input,))


def _unlike(verb: str, first: Recipe, other: Recipe) -> ShapeError:
    return ShapeError(
        f"stored tensors do not {verb}",
        required=f"{list(first.shape)}, as {next(first.sources())}",
        met=list(other.shape),
        where=next(other.sources()),
    )


_MOVES: dict[Any, Callable[..., Any]] = {
    torch.stack: _stack,
    torch.cat: _cat,
    torch.chunk: _chunk,
    torch.split: _split,
    torch.transpose: _transpose,
}
