"""Each native loop against the torch form that defines it, bit for bit. Without the module both sides are torch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels import dyadic_histogram, native
from porting_kernels.rounding import saturate_int8

MODES = ["half_even", "half_away", "half_up"]
ANY = st.lists(st.floats(width=32), min_size=1, max_size=70)


@given(ANY, st.floats(-1e10, 1e10, width=32), st.integers(-128, 127), st.sampled_from(MODES))
def test_quantize_on_any_float(values, scale, offset, mode):
    x = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(native.quantize_int8(x, scale, offset, mode), saturate_int8(x * scale + offset, mode))


@pytest.mark.parametrize("mode", MODES)
def test_quantize_on_every_tie_and_its_neighbours(mode):
    ties = torch.arange(-300, 301) / 2
    x = torch.cat([ties, torch.nextafter(ties, ties + 1), torch.nextafter(ties, ties - 1)])
    assert torch.equal(native.quantize_int8(x, 1.0, 0, mode), saturate_int8(x, mode))


@pytest.mark.parametrize("shape", [(1,), (4095,), (4097,), (3, 5000), (0,)])
@pytest.mark.parametrize("spread", [0, 3, 30])
def test_histogram_with_ranges_that_grow_on_the_way(shape, spread):
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(shape) * np.exp2(rng.integers(-spread, spread + 1, shape))).astype(np.float32)
    x[rng.random(shape) < 0.2] = 0
    found, expected = native.histogram(torch.from_numpy(x)), dyadic_histogram.reference(torch.from_numpy(x))
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.exponent, found.zeros, found.low, found.high) == (
        expected.exponent,
        expected.zeros,
        expected.low,
        expected.high,
    )


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_histogram_on_any_finite_float(values):
    x = torch.tensor(values, dtype=torch.float32)
    found, expected = native.histogram(x), dyadic_histogram.reference(x)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.exponent, found.zeros, found.low, found.high) == (
        expected.exponent,
        expected.zeros,
        expected.low,
        expected.high,
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_histogram_names_the_first_non_finite_value(bad):
    x = torch.zeros(3, 3000)
    x[2, 17] = bad
    x[2, 18] = float("nan")
    with pytest.raises(dyadic_histogram.NonFiniteError) as caught:
        native.histogram(x)
    assert caught.value.index == (2, 17)


def test_the_switch_turns_the_module_off():
    code = (
        "import torch; from porting_kernels import native;"
        "codes = native.quantize_int8(torch.ones(2), 2.0, 1, 'half_even');"
        "print(native.available, native.instruction_set(), codes.tolist())"
    )
    environment = {**os.environ, native.SWITCH: "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False None [3, 3]"
