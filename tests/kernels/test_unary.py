from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

DOMAIN = {"Acos": (-1, 1), "Asin": (-1, 1), "Atanh": (-0.99, 0.99), "Acosh": (1, 9), "Log": (0.01, 9), "Sqrt": (0, 9)}
FUNCTIONS = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Cos",
    "Cosh",
    "Erf",
    "Exp",
    "Floor",
    "Log",
    "Neg",
    "Reciprocal",
    "Round",
    "Sign",
    "Sin",
    "Sinh",
    "Sqrt",
    "Tan",
    "Tanh",
]


@pytest.mark.parametrize("op_type", FUNCTIONS)
def test_matches_stock_runtime(op_type, rng, ours, stock):
    low, high = DOMAIN.get(op_type, (-3, 3))
    x = rng.uniform(low, high, (5, 7)).astype(np.float32)
    # Two libraries' functions: each a few ULPs from the true value.
    np.testing.assert_allclose(ours(op_type, x)[0], stock(op_type, x)[0], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("op_type", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_the_rounded_float32_result(op_type, dtype, rng, ours):
    low, high = DOMAIN.get(op_type, (-3, 3))
    x = rng.uniform(low, high, 64).astype(dtype)
    wide = ours(op_type, x.astype(np.float32))[0]
    np.testing.assert_array_equal(ours(op_type, x)[0], wide.astype(dtype))


def test_round_takes_ties_to_even(ours):
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    np.testing.assert_array_equal(ours("Round", x)[0], [-2, -2, -0.0, 0, 2, 2])


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_signed_integers(dtype, ours):
    x = np.array([np.iinfo(dtype).min, -3, 0, 5], dtype)
    np.testing.assert_array_equal(ours("Abs", x)[0], np.abs(x))
    np.testing.assert_array_equal(ours("Neg", x)[0], np.negative(x))
    np.testing.assert_array_equal(ours("Sign", x)[0], np.sign(x))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_unsigned_integers(dtype, ours):
    x = np.array([0, 1, np.iinfo(dtype).max], dtype)
    np.testing.assert_array_equal(ours("Abs", x)[0], x)
    np.testing.assert_array_equal(ours("Sign", x)[0], np.array([0, 1, 1], dtype))


def test_sign_of_nan_is_nan(ours):
    np.testing.assert_array_equal(ours("Sign", np.array([math.nan, -0.0, -2], np.float32))[0], [math.nan, 0, -1])


INFINITE = np.array([-math.inf, -1, math.nan, 0, math.inf], np.float32)


@pytest.mark.parametrize(
    "negative, positive, expected",
    [(1, 1, [1, 0, 0, 0, 1]), (0, 1, [0, 0, 0, 0, 1]), (1, 0, [1, 0, 0, 0, 0]), (0, 0, [0, 0, 0, 0, 0])],
)
def test_infinities_of_the_wanted_signs(negative, positive, expected, ours):
    found = ours("IsInf", INFINITE, detect_negative=negative, detect_positive=positive)[0]
    np.testing.assert_array_equal(found, np.array(expected, bool))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_nan_and_infinity_of_every_float_type(dtype, ours):
    x = INFINITE.astype(dtype)
    np.testing.assert_array_equal(ours("IsNaN", x)[0], [False, False, True, False, False])
    np.testing.assert_array_equal(ours("IsInf", x)[0], [True, False, False, False, True])
