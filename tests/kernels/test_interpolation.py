from __future__ import annotations

import pytest
import torch

from porting_kernels.errors import PortingError
from porting_kernels.interpolation import Axis, interpolate, nearest, taps

DOUBLE = Axis(index=0, size=4, output=8, scale=2.0)


@pytest.mark.parametrize(
    "mode, first, last",
    [
        ("half_pixel", -0.25, 3.25),
        ("pytorch_half_pixel", -0.25, 3.25),
        ("half_pixel_symmetric", -0.25, 3.25),
        ("asymmetric", 0.0, 3.5),
        ("align_corners", 0.0, 3.0),
        ("tf_half_pixel_for_nn", 0.25, 3.75),
        ("tf_crop_and_resize", 0.0, 3.0),
    ],
)
def test_where_the_ends_of_a_doubled_axis_come_from(mode, first, last):
    positions = DOUBLE.coordinates(mode, torch.float64)
    assert (positions[0].item(), positions[-1].item()) == (first, last)


def test_an_axis_of_one_element():
    single = Axis(index=0, size=5, output=1, scale=0.2, start=0.5, end=1.0)
    assert single.coordinates("align_corners", torch.float32).item() == 0
    assert single.coordinates("pytorch_half_pixel", torch.float32).item() == 0
    assert single.coordinates("tf_crop_and_resize", torch.float32).item() == 3
    with pytest.raises(PortingError, match="coordinate"):
        single.coordinates("center", torch.float32)


def test_nearest_modes_differ_at_halves_only():
    positions = torch.tensor([-0.5, 0.4, 0.5, 1.5, 2.6, 9.0])
    expected = {
        "round_prefer_floor": [0, 0, 0, 1, 3, 3],
        "round_prefer_ceil": [0, 0, 1, 2, 3, 3],
        "floor": [0, 0, 0, 1, 2, 3],
        "ceil": [0, 1, 1, 2, 3, 3],
    }
    for mode, indices in expected.items():
        assert nearest(positions, 4, mode, shrinking=False).tolist() == indices
    assert nearest(positions, 4, "simple", shrinking=True).tolist() == expected["ceil"]
    assert nearest(positions, 4, "simple", shrinking=False).tolist() == expected["floor"]


@pytest.mark.parametrize("cubic_a", [None, -0.75, -0.5])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("exclude_outside", [False, True])
@pytest.mark.parametrize("output", [3, 8, 17])
def test_weights_sum_to_one_and_a_constant_stays(cubic_a, antialias, exclude_outside, output):
    axis = Axis(index=1, size=8, output=output, scale=output / 8)
    positions = axis.coordinates("half_pixel", torch.float64)
    indices, weights = taps(positions, axis, cubic_a=cubic_a, antialias=antialias, exclude_outside=exclude_outside)
    torch.testing.assert_close(weights.sum(0), torch.ones(output, dtype=torch.float64))
    assert int(indices.min()) >= 0
    assert int(indices.max()) < 8
    constant = torch.full((2, 8, 3), 7.0, dtype=torch.float64)
    torch.testing.assert_close(interpolate(constant, 1, indices, weights), constant.new_full((2, output, 3), 7.0))


def test_linear_interpolation_reproduces_a_line():
    axis = Axis(index=0, size=5, output=9, scale=9 / 5)
    positions = axis.coordinates("align_corners", torch.float64)
    indices, weights = taps(positions, axis, cubic_a=None, antialias=False, exclude_outside=False)
    line = 3 * torch.arange(5, dtype=torch.float64) + 1
    torch.testing.assert_close(interpolate(line, 0, indices, weights), 3 * positions + 1)
