from __future__ import annotations

import pytest
import torch

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.window_geometry import windows


def test_same_padding_puts_the_odd_cell_where_it_says():
    upper = windows([6], [2], auto_pad="SAME_UPPER", strides=[1])
    lower = windows([6], [2], auto_pad="SAME_LOWER", strides=[1])
    assert (upper.begin, upper.end) == ((0,), (1,))
    assert (lower.begin, lower.end) == ((1,), (0,))
    assert upper.output() == lower.output() == (6,)


def test_ceil_mode_drops_a_window_that_starts_in_the_end_padding():
    geometry = windows([2], [1], pads=[0, 1], strides=[2])
    assert geometry.output() == (2,) or geometry.output() == (1,)
    assert geometry.output(ceil_mode=True) == (1,)
    assert windows([5], [2], strides=[2]).output(ceil_mode=True) == (3,)


def test_padding_to_an_output_covers_exactly_its_windows():
    geometry = windows([5], [2], strides=[2])
    padded = geometry.pad(torch.ones(1, 1, 5), 0.0, output=(3,))
    assert padded.tolist() == [[[1, 1, 1, 1, 1, 0]]]


def test_wrong_attributes_are_refused():
    with pytest.raises(ShapeError, match="strides"):
        windows([5, 5], [2, 2], strides=[1])
    with pytest.raises(PortingError, match="auto_pad"):
        windows([5], [2], auto_pad="SAME")
