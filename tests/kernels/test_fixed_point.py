import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from porting_kernels import fixed_point
from porting_kernels.errors import PortingError


@pytest.mark.parametrize(
    ("absmax", "bits", "position", "scale"),
    [
        # floor(log2(10)) = 3, position 3 - 6 = -3, scale 2**-3 * 127 / 10
        (10.0, 8, -3, 127 / 80),
        (1.0, 8, -6, 127 / 64),
        (0.999, 8, -7, 127 / 128 / 0.999),
        (127.0, 8, 0, 1.0),
        (10.0, 16, -11, 32767 / 20480),
        (3.0, 31, -28, (2**30 - 1) / 2**28 / 3),
    ],
)
def test_symmetric_by_hand(absmax, bits, position, scale):
    found = fixed_point.symmetric(absmax, bits)
    assert (found.position, found.offset) == (position, 0)
    assert found.scale == pytest.approx(scale, rel=2**-23)


@pytest.mark.parametrize(
    ("low", "high", "position", "scale", "offset"),
    [
        # span 4: position 2 - 7 = -5, scale 2**-5 * 255 / 4, offset round(-128 + 255 / 4) = round(-64.25)
        (-1.0, 3.0, -5, 255 / 128, -64),
        (0.0, 6.0, -5, 255 / 192, -128),
        (-6.0, 0.0, -5, 255 / 192, 127),
        # widened to contain 0
        (2.0, 6.0, -5, 255 / 192, -128),
        (-6.0, -2.0, -5, 255 / 192, 127),
    ],
)
def test_asymmetric_by_hand(low, high, position, scale, offset):
    found = fixed_point.asymmetric(low, high)
    assert (found.position, found.offset) == (position, offset)
    assert found.scale == pytest.approx(scale, rel=2**-23)


def test_zero_and_tiny_ranges_have_parameters():
    assert fixed_point.symmetric(0.0) == fixed_point.FixedPoint(8, 0)
    assert fixed_point.asymmetric(0.0, 0.0) == fixed_point.FixedPoint(8, 0)
    assert fixed_point.symmetric(1e-42).position == -127


@pytest.mark.parametrize(("limits", "bits"), [((float("nan"),), 8), ((float("inf"),), 8), ((1.0,), 4)])
def test_other_widths_and_ranges_are_refused(limits, bits):
    with pytest.raises(PortingError):
        fixed_point.symmetric(*limits, bits)


@given(st.floats(1e-30, 1e30), st.sampled_from([8, 16]), st.lists(st.floats(-1, 1), min_size=1))
def test_error_is_at_most_half_a_step(absmax, bits, parts):
    parameters = fixed_point.symmetric(absmax, bits)
    x = torch.tensor([p * absmax for p in parts], dtype=torch.float64)
    back = parameters.dequantize(parameters.quantize(x, "half_away"))
    # 2**-22: scale is rounded to float32, which moves the outermost code.
    limit = parameters.step * (0.5 + 2 ** (bits - 1) * 2**-22)
    assert (back - x).abs().max() <= limit


@given(st.floats(-100, 100), st.floats(-100, 100))
@example(0.0, 5e-324)
@example(-5e-324, 0.0)
def test_asymmetric_range_represents_zero_exactly(a, b):
    parameters = fixed_point.asymmetric(min(a, b), max(a, b))
    zero = torch.zeros(1, dtype=torch.float64)
    assert parameters.dequantize(parameters.quantize(zero, "half_even")).item() == 0.0


def test_multiplier_is_scale_shifted_by_position():
    parameters = fixed_point.symmetric(10.0)
    assert parameters.multiplier == parameters.scale * 8
    assert parameters.step == math.ldexp(1 / parameters.scale, -3)
