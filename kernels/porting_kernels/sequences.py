"""Sequences, which are lists of tensors, and optionals, which are None or what they hold."""

from __future__ import annotations

from typing import Any

import torch

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.registry import kernel

Sequence = list[torch.Tensor]


@kernel("SequenceEmpty", since=11)
def sequence_empty(*, dtype: int = 1) -> Sequence:
    """A sequence of no tensors."""
    return []


@kernel("SequenceConstruct", since=11)
def sequence_construct(*tensors: torch.Tensor) -> Sequence:
    """A sequence of the operands."""
    return list(tensors)


def _place(position: torch.Tensor, length: int, last: int) -> int:
    """A position from -length to last, counted from the start."""
    place = int(position)
    if not -length <= place <= last:
        raise ShapeError("position outside the sequence", required=f"{-length} to {last}", met=place)
    return place + length if place < 0 else place


@kernel("SequenceAt", since=11)
def sequence_at(sequence: Sequence, position: torch.Tensor) -> torch.Tensor:
    """The tensor at a position; negative ones count from the end."""
    return sequence[_place(position, len(sequence), len(sequence) - 1)]


@kernel("SequenceInsert", since=11)
def sequence_insert(sequence: Sequence, tensor: torch.Tensor, position: torch.Tensor | None = None) -> Sequence:
    """With a tensor put in before a position, at the end by default."""
    place = len(sequence) if position is None else _place(position, len(sequence), len(sequence))
    return [*sequence[:place], tensor, *sequence[place:]]


@kernel("SequenceErase", since=11)
def sequence_erase(sequence: Sequence, position: torch.Tensor | None = None) -> Sequence:
    """Without the tensor at a position, the last one by default."""
    last = len(sequence) - 1
    place = last if position is None else _place(position, len(sequence), last)
    return [*sequence[:place], *sequence[place + 1 :]]


@kernel("SequenceLength", since=11)
def sequence_length(sequence: Sequence) -> torch.Tensor:
    """The number of tensors, an int64 scalar."""
    return torch.tensor(len(sequence))


@kernel("ConcatFromSequence", since=11)
def concat_from_sequence(sequence: Sequence, *, axis: int, new_axis: int = 0) -> torch.Tensor:
    """All tensors one after the other along an axis, or stacked along a new one."""
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


@kernel("SplitToSequence", since=11)
def split_to_sequence(
    x: torch.Tensor, split: torch.Tensor | None = None, *, axis: int = 0, keepdims: int = 1
) -> Sequence:
    """Parts along an axis: of given sizes, of one size (the last is what remains), or of 1.

    Without sizes, keepdims=0 drops the axis.
    """
    if split is None:
        return list(torch.split(x, 1, axis) if keepdims else torch.unbind(x, axis))
    if split.dim() == 0:
        return list(torch.split(x, int(split), axis))
    return list(torch.split(x, split.tolist(), axis))


@kernel("Optional", since=15)
def optional(value: Any = None, *, type: object = None) -> Any:
    """An optional that holds the operand, or an empty one."""
    return value


@kernel("OptionalHasElement", since=15)
def optional_has_element(value: Any = None) -> torch.Tensor:
    """A bool scalar: whether there is a value."""
    return torch.tensor(value is not None)


@kernel("OptionalGetElement", since=15)
def optional_get_element(value: Any) -> Any:
    """What the optional holds. Raises PortingError for an empty one."""
    if value is None:
        raise PortingError("the optional is empty", fix="test it with OptionalHasElement first")
    return value
