from __future__ import annotations

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Max": np.maximum, "Min": np.minimum}


@settings(max_examples=60, deadline=None)
@given(
    shapes=arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4, min_side=0),
    name=st.sampled_from(sorted(BINARY)),
    seed=st.integers(0, 2**16),
)
def test_broadcasts_as_numpy(shapes, name, seed, ours):
    random = np.random.default_rng(seed)
    a, b = (random.uniform(0.5, 3, shape).astype(np.float32) for shape in shapes.input_shapes)
    found = ours(name, a, b)[0]
    assert found.shape == shapes.result_shape
    np.testing.assert_array_equal(found, BINARY[name](a, b))


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Max", "Min"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around_as_numpy(name, dtype, rng, ours):
    limits = np.iinfo(dtype)
    a = np.array([limits.max, limits.min, limits.max, 7], dtype)
    b = np.array([limits.max, limits.max, 1, 9], dtype)
    np.testing.assert_array_equal(ours(name, a, b)[0], BINARY[name](a, b))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_division_truncates(dtype, ours):
    a, b = np.array([7, 7, 0, np.iinfo(dtype).max], dtype), np.array([2, 7, 3, 2], dtype)
    np.testing.assert_array_equal(ours("Div", a, b)[0], np.array([3, 1, 0, np.iinfo(dtype).max // 2], dtype))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_division_of_negative_integers_goes_toward_zero(dtype, ours):
    a, b = np.array([-7, 7, -7, -1], dtype), np.array([2, -2, -2, 2], dtype)
    np.testing.assert_array_equal(ours("Div", a, b)[0], np.array([-3, -3, 3, 0], dtype))


@pytest.mark.parametrize("fmod, function", [(0, np.mod), (1, np.fmod)])
@pytest.mark.parametrize("dtype", [*INTEGERS, np.float32])
def test_remainder_takes_the_sign_it_is_asked_for(fmod, function, dtype, ours):
    a, b = np.array([-7, 7, -7, 7, 0]), np.array([3, -3, -3, 3, 5])
    if np.dtype(dtype).kind == "u":
        a, b = abs(a), abs(b)
    a, b = a.astype(dtype), b.astype(dtype)
    np.testing.assert_array_equal(ours("Mod", a, b, fmod=fmod)[0], function(a, b))


def test_large_uint64_values_are_exact(ours):
    a, b = np.array([2**64 - 1, 2**63 + 5], np.uint64), np.array([10, 2**63], np.uint64)
    np.testing.assert_array_equal(ours("Div", a, b)[0], a // b)
    np.testing.assert_array_equal(ours("Mod", a, b)[0], a % b)
    np.testing.assert_array_equal(ours("Max", a, b)[0], a)


@pytest.mark.parametrize("name", ["Max", "Min"])
def test_extremes_pass_nan_on(name, ours, stock):
    a = np.array([math.nan, 1, math.inf, -math.inf], np.float32)
    b = np.array([0, math.nan, 1, 1], np.float32)
    np.testing.assert_array_equal(ours(name, a, b)[0], stock(name, a, b)[0])


@pytest.mark.parametrize("name", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_operands(name, count, rng, ours, stock):
    operands = [rng.standard_normal((3, 1) if i % 2 else (1, 4)).astype(np.float32) for i in range(count)]
    np.testing.assert_allclose(ours(name, *operands)[0], stock(name, *operands)[0], rtol=1e-6)


@pytest.mark.parametrize(
    "base, exponent",
    [
        (np.array([1, 2, -3], np.float32), np.array([2, 0.5, 3], np.float32)),
        (np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.int64)),
        (np.array([1, 2, 3], np.int32), np.array([4, 5, 6], np.float32)),
        (np.array([1, 2, -3], np.int64), np.array([4, 5, 3], np.int64)),
        (np.array([0, -0.0, np.inf, np.nan], np.float32), np.array([0, -1, 0, 0], np.float32)),
    ],
    ids=["float", "float-int", "int-float", "int", "edges"],
)
def test_power_has_the_dtype_of_its_base(base, exponent, ours, stock):
    found = ours("Pow", base, exponent, opset=15)[0]
    assert found.dtype == base.dtype
    np.testing.assert_allclose(found, stock("Pow", base, exponent, opset=15)[0], rtol=1e-6)
