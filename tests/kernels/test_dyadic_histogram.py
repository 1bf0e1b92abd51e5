import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels import dyadic_histogram as dh

VALUES = st.lists(st.floats(-1e6, 1e6, width=32) | st.floats(-(2**-9), 2**-9, width=32), min_size=1)


def assert_equal(a: dh.DyadicHistogram, b: dh.DyadicHistogram) -> None:
    assert (a.exponent, a.zeros, a.low, a.high) == (b.exponent, b.zeros, b.low, b.high)
    np.testing.assert_array_equal(a.counts, b.counts)


@given(VALUES, VALUES, VALUES)
def test_any_order_of_merging_gives_the_counts_of_all_values_at_once(a, b, c):
    parts = [dh.reference(torch.tensor(v, dtype=torch.float32)) for v in (a, b, c)]
    whole = dh.reference(torch.tensor(a + b + c, dtype=torch.float32))
    assert_equal(parts[0].merged(parts[1]).merged(parts[2]), whole)
    assert_equal(parts[2].merged(parts[0].merged(parts[1])), whole)
    assert_equal(dh.empty().merged(whole), whole)


def test_bins_equal_numpy():
    x = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    h = dh.reference(torch.from_numpy(x))
    edges = np.arange(dh.BINS + 1) * h.width
    assert h.exponent == 2
    np.testing.assert_array_equal(h.counts[0], np.histogram(x[x > 0], edges)[0])
    np.testing.assert_array_equal(h.counts[1], np.histogram(-x[x < 0], edges)[0])
    assert h.total == x.size


def test_zeros_are_counted_apart_and_signs_never_mix():
    h = dh.reference(torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38]))
    assert (h.zeros, h.counts[0, 0], h.counts[1, 0], h.exponent) == (2, 1, 1, 128)


@pytest.mark.parametrize(("absmax", "exponent"), [(1.0, 1), (0.99999994, 0), (2.0, 2), (1e-40, -100), (0.0, -100)])
def test_range_is_the_next_power_of_two(absmax, exponent):
    assert dh.exponent_of(absmax) == exponent


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_are_named(bad):
    x = torch.zeros(2, 3)
    x[1, 2] = bad
    with pytest.raises(dh.NonFiniteError, match=r"element \[1, 2\]") as caught:
        dh.reference(x)
    assert caught.value.index == (1, 2)


def test_no_values():
    assert dh.reference(torch.zeros(0, 3)).total == 0
