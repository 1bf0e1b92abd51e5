import decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels.errors import PortingError
from porting_kernels.rounding import round_ties, saturate_int8

MODES = {"half_even": decimal.ROUND_HALF_EVEN, "half_away": decimal.ROUND_HALF_UP}
FLOATS = st.floats(-1e6, 1e6, width=32) | st.integers(-2000, 2000).map(lambda i: i / 2)


def exact(value: float, mode: str) -> int:
    number = decimal.Decimal(value)
    if mode == "half_up":
        return int((number + decimal.Decimal("0.5")).to_integral_value(decimal.ROUND_FLOOR))
    return int(number.to_integral_value(MODES[mode]))


@given(st.lists(FLOATS, min_size=1), st.sampled_from(["half_even", "half_away", "half_up"]))
def test_rounding_equals_decimal_arithmetic(values, mode):
    x = torch.tensor(values, dtype=torch.float32)
    assert round_ties(x, mode).tolist() == [exact(v, mode) for v in x.tolist()]


@given(st.lists(FLOATS, min_size=1), st.sampled_from(["half_even", "half_away", "half_up"]))
def test_saturation_clamps_the_rounded_value(values, mode):
    x = torch.tensor(values, dtype=torch.float32)
    assert saturate_int8(x, mode).tolist() == [min(max(exact(v, mode), -128), 127) for v in x.tolist()]


@pytest.mark.parametrize("mode", ["half_even", "half_away", "half_up"])
def test_non_finite_values_have_defined_codes(mode):
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 3e38])
    assert saturate_int8(x, mode).tolist() == [0, 127, -128, 127]


def test_unknown_mode_lists_the_known():
    with pytest.raises(PortingError, match="half_even, half_away or half_up"):
        round_ties(torch.zeros(1), "nearest")
