import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels.errors import PortingError
from porting_passes.quantization_parameters import (
    ActivationRange,
    activation_parameters,
    quantize_weight,
    weight_absmax,
)

FORMS = ("reciprocal_scale", "position_scale")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("low", "high", "symmetry", "multiplier", "offset"),
    [
        (-3.0, 10.0, "symmetric", 12.7, 0),
        (-10.0, 3.0, "symmetric", 12.7, 0),
        (-1.0, 3.0, "asymmetric", 63.75, -64),
        (0.0, 6.0, "asymmetric", 42.5, -128),
        (2.0, 6.0, "asymmetric", 42.5, -128),
        (-6.0, -2.0, "asymmetric", 42.5, 127),
    ],
)
def test_activation_by_hand(form, low, high, symmetry, multiplier, offset):
    found = activation_parameters(ActivationRange(low, high), symmetry, form)
    assert found.multiplier == float(np.float32(multiplier))
    assert found.offset == offset


@given(st.floats(2**-60, 2**60), st.floats(0, 1))
def test_both_forms_give_the_same_multiplier(absmax, part):
    """Scaling by 2**position is exact, so the two forms round once, at the same place."""
    for symmetry in ("symmetric", "asymmetric"):
        one, other = (activation_parameters(ActivationRange(-absmax * part, absmax), symmetry, f) for f in FORMS)
        assert one.multiplier == other.multiplier
        assert abs(one.offset - other.offset) <= 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("absmax", [0.0, 1e-45, 1e-38])
def test_a_range_without_normal_scales_counts_as_zero(form, absmax):
    found = activation_parameters(ActivationRange(-absmax, absmax), "symmetric", form)
    assert (found.multiplier, found.offset) == (1.0, 0)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (float("nan"), 0.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(low, high):
    with pytest.raises(PortingError, match="min <= max"):
        ActivationRange(low, high)


@pytest.mark.parametrize("form", FORMS)
def test_idle_channels_take_the_middle_step_of_the_others(form):
    weight = np.stack([np.full(4, w, np.float32) for w in (0.0, 0.25, 1e-38, 1.0, 4.0)])
    found = quantize_weight(weight, 0, weight_absmax(weight, 0, "channel"), form)
    assert (found.zero_channels, found.tiny_channels) == (1, 1)
    assert found.steps[0] == found.steps[2] == found.steps[3]
    assert not found.codes[[0, 2]].any()
    alone = quantize_weight(weight[:1], 0, weight_absmax(weight[:1], 0, "channel"), form)
    assert alone.steps.tolist() == [2.0**-16]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("axis", "granularity", "size"), [(0, "channel", 6), (1, "channel", 5), (0, "tensor", 1)])
def test_weight_codes_are_within_half_a_step(form, axis, granularity, size):
    weight = (np.random.default_rng(0).standard_normal((6, 5, 3)) * 0.1).astype(np.float32)
    absmax = weight_absmax(weight, axis, granularity)
    found = quantize_weight(weight, axis, absmax, form)
    steps = found.steps.reshape([-1 if i == axis and size > 1 else 1 for i in range(3)])
    assert absmax.size == found.steps.size == size
    assert found.codes.dtype == np.int8
    assert np.abs(found.codes * steps - weight).max() <= steps.max() * (0.5 + 127 * 2**-23)
    assert np.abs(found.codes).max() == 127


def test_weight_by_hand():
    weight = np.array([[1.27, -0.5, 0.014999, 0.015001]], np.float32)
    found = quantize_weight(weight, 0, weight_absmax(weight, 0, "channel"), "reciprocal_scale")
    assert found.codes.tolist() == [[127, -50, 1, 2]]
    assert found.steps.tolist() == pytest.approx([0.01], rel=1e-6)


@pytest.mark.parametrize(("form", "codes"), [("reciprocal_scale", [[127, 2, -2]]), ("position_scale", [[127, 3, -3]])])
def test_ties_of_each_form(form, codes):
    weight = np.array([[127, 2.5, -2.5]], np.float32)
    assert quantize_weight(weight, 0, weight_absmax(weight, 0, "channel"), form).codes.tolist() == codes


@pytest.mark.parametrize("form", FORMS)
def test_zero_and_denormal_channels_are_counted(form):
    weight = np.array([[0, 0], [1e-44, -1e-40], [1, -1]], np.float32)
    found = quantize_weight(weight, 0, weight_absmax(weight, 0, "channel"), form)
    assert (found.zero_channels, found.tiny_channels) == (1, 1)
    assert found.codes.tolist() == [[0, 0], [0, 0], [127, -127]]
    assert np.isfinite(found.steps).all()
