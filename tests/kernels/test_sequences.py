from __future__ import annotations

import pytest
import torch

from porting_kernels import sequences
from porting_kernels.errors import PortingError, ShapeError

PARTS = [torch.full((1, 2), float(i)) for i in range(3)]


def position(value):
    return torch.tensor(value)


def test_sequences_are_built_and_measured():
    assert sequences.sequence_empty(dtype=7) == []
    built = sequences.sequence_construct(*PARTS)
    assert sequences.sequence_length(built).item() == 3
    assert sequences.sequence_at(built, position(-1)) is PARTS[2]


def test_inserting_and_erasing_leave_the_operand_alone():
    new = torch.zeros(1)
    assert sequences.sequence_insert(PARTS, new)[-1] is new
    assert sequences.sequence_insert(PARTS, new, position(-3))[0] is new
    assert sequences.sequence_insert(PARTS, new, position(3))[3] is new
    assert sequences.sequence_erase(PARTS) == PARTS[:2]
    assert sequences.sequence_erase(PARTS, position(0)) == PARTS[1:]
    assert len(PARTS) == 3


@pytest.mark.parametrize("place", [3, -4])
def test_positions_outside_are_refused(place):
    with pytest.raises(ShapeError, match="outside"):
        sequences.sequence_at(PARTS, position(place))


def test_sequences_are_joined_and_split():
    joined = sequences.concat_from_sequence(PARTS, axis=0)
    assert joined.shape == (3, 2)
    assert sequences.concat_from_sequence(PARTS, axis=-1, new_axis=1).shape == (1, 2, 3)
    assert [p.shape[0] for p in sequences.split_to_sequence(joined, position(2))] == [2, 1]
    assert [p.shape[0] for p in sequences.split_to_sequence(joined, position([1, 2]))] == [1, 2]
    assert [tuple(p.shape) for p in sequences.split_to_sequence(joined, axis=1, keepdims=0)] == [(3,), (3,)]


def test_optionals():
    assert sequences.optional_has_element(sequences.optional(PARTS)).item() is True
    assert sequences.optional_has_element(None).item() is False
    assert sequences.optional_has_element().item() is False
    assert sequences.optional_get_element(PARTS) is PARTS
    with pytest.raises(PortingError, match="empty"):
        sequences.optional_get_element(None)
