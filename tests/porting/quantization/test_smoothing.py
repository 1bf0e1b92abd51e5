from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting.errors import InvalidModelError, ShapeError, UsageError
from porting.quantization.quantized_weight import quantize_weight
from porting.quantization.smoothing import column_absmax, divided_norm, smooth_operand, smoothing_factors
from porting.quantization.weight_spec import WeightSpec
from porting.weights.store import WeightStore
from porting.weights.view import WeightView


def test_factors_by_hand() -> None:
    activation, weight = torch.tensor([16.0, 1.0, 4.0]), torch.tensor([1.0, 1.0, 4.0])
    # 16**.5 / 1**.5 = 4, 1, 1, whose geometric mean is 4**(1/3).
    found = smoothing_factors(activation, weight, power_of_two=False)
    torch.testing.assert_close(found, torch.tensor([4.0, 1.0, 1.0]) / 4 ** (1 / 3), rtol=1e-6, atol=0)
    assert smoothing_factors(activation, weight).tolist() == [2.0, 0.5, 0.5], "exponents 4/3 and -2/3"
    assert smoothing_factors(activation, weight, alpha=1.0).tolist() == [4.0, 0.25, 1.0]
    assert smoothing_factors(activation, weight, alpha=0.0).tolist() == [2.0, 2.0, 0.5], "exponents 2/3, 2/3, -4/3"


def test_channels_without_use_are_left_alone() -> None:
    found = smoothing_factors(torch.tensor([0.0, 8.0, 2.0]), torch.tensor([5.0, 0.0, 1.0]))
    assert found.tolist() == [1.0, 1.0, 1.0]
    assert smoothing_factors(torch.zeros(2), torch.zeros(2)).tolist() == [1.0, 1.0]


@given(st.lists(st.tuples(*[st.floats(0, 2.0**127, width=32)] * 2), min_size=1, max_size=20), st.floats(0, 1))
def test_factors_are_powers_of_two_within_bounds(maxima: list[tuple[float, float]], alpha: float) -> None:
    activation, weight = torch.tensor(maxima).T
    mantissa, _ = torch.frexp(smoothing_factors(activation, weight, alpha=alpha))
    assert (mantissa == 0.5).all()


def test_refusals() -> None:
    ones = torch.ones(3)
    with pytest.raises(UsageError):
        smoothing_factors(ones, ones, alpha=1.5)
    with pytest.raises(ShapeError):
        smoothing_factors(ones, torch.ones(2))
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InvalidModelError):
            smoothing_factors(torch.tensor([1.0, bad]), torch.ones(2))
    with pytest.raises(ShapeError):
        column_absmax([])
    with pytest.raises(ShapeError):
        column_absmax([ir.tensor(np.ones((2, k), np.float32)) for k in (2, 3)])
    with pytest.raises(InvalidModelError):
        column_absmax([ir.tensor(np.array([[1, np.nan]], np.float32))])


def test_maxima_of_all_weights_that_share_an_input(experts: tuple[WeightStore, torch.Tensor]) -> None:
    store, values = experts
    stack = WeightView.stacked([WeightView.of(store, f"e{e}.weight", torch.bfloat16) for e in range(2)])
    found = column_absmax([stack, ir.tensor(values[2].numpy())])
    assert torch.equal(found, values.abs().amax((0, 1)))


def test_a_normalization_takes_powers_of_two_exactly() -> None:
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0)).bfloat16()
    factors = torch.tensor([2.0**n for n in range(-32, 32)])
    divided = divided_norm(weight, factors)
    assert divided.dtype == torch.bfloat16
    assert torch.equal(divided.float() * factors, weight.float())
    assert smooth_operand(factors).tolist() == [2.0**-n for n in range(-32, 32)]
    with pytest.raises(ShapeError):
        divided_norm(weight, factors[:3])


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**30])
def test_a_normalization_that_would_leave_its_type_is_refused(factor: float) -> None:
    with pytest.raises(InvalidModelError, match="channel 1"):
        divided_norm(torch.tensor([0.0, 1.0]).half(), torch.tensor([factor, factor]))


def product_error(x: torch.Tensor, w: torch.Tensor, factors: torch.Tensor | None) -> float:
    """Relative error of a product in int8 by token and output channel, activations divided by factors before."""
    weight = quantize_weight(ir.tensor(w.numpy()), WeightSpec(), column_factors=factors)
    codes, scale = weight.codes.tensor().double(), weight.scale.tensor().double()
    x_smooth = (x if factors is None else x / factors).double()
    step = x_smooth.abs().amax(1, keepdim=True) / 127
    y = (torch.round(x_smooth / step) @ codes.T) * step * scale
    exact = x.double() @ w.double().T
    return float((y - exact).norm() / exact.norm())


@pytest.mark.parametrize("power_of_two", [True, False])
def test_planted_outliers_are_smoothed_away(power_of_two: bool) -> None:
    g = torch.Generator().manual_seed(5)
    x, w = torch.randn(64, 256, generator=g), torch.randn(96, 256, generator=g)
    plain = product_error(x, w, None)
    outliers = torch.tensor([3, 50, 99, 100, 255])
    x[:, outliers] *= 30
    w[:, outliers] /= 30
    planted = product_error(x, w, None)
    factors = smoothing_factors(x.abs().amax(0), column_absmax([ir.tensor(w.numpy())]), power_of_two=power_of_two)
    smoothed = product_error(x, w, factors)
    assert planted > 5 * plain
    assert smoothed < 1.3 * plain
