from __future__ import annotations

import math

import numpy as np
import pytest

from porting_kernels.errors import PortingError

COMPARISONS = {
    "Equal": np.equal,
    "Greater": np.greater,
    "Less": np.less,
    "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal,
}
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("dtype", [*INTEGERS, np.float32])
def test_comparisons_broadcast_as_numpy(name, dtype, ours):
    top = 100 if dtype is np.float32 else np.iinfo(dtype).max
    a, b = np.array([[0], [1], [top]], dtype), np.array([0, 1, top], dtype)
    np.testing.assert_array_equal(ours(name, a, b)[0], COMPARISONS[name](a, b))


@pytest.mark.parametrize("name", COMPARISONS)
def test_nan_compares_false(name, ours):
    a, b = np.array([math.nan, 1, math.nan], np.float32), np.array([1, math.nan, math.nan], np.float32)
    np.testing.assert_array_equal(ours(name, a, b)[0], [False] * 3)


@pytest.mark.parametrize("name, table", [("And", [0, 0, 0, 1]), ("Or", [0, 1, 1, 1]), ("Xor", [0, 1, 1, 0])])
def test_truth_tables(name, table, ours):
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    np.testing.assert_array_equal(ours(name, a, b)[0], np.array(table, bool))
    np.testing.assert_array_equal(ours("Not", a)[0], ~a)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bitwise_operators(dtype, rng, ours):
    limits = np.iinfo(dtype)
    a, b = rng.integers(limits.min, limits.max, (2, 20), dtype)
    np.testing.assert_array_equal(ours("BitwiseAnd", a, b)[0], a & b)
    np.testing.assert_array_equal(ours("BitwiseOr", a, b)[0], a | b)
    np.testing.assert_array_equal(ours("BitwiseXor", a, b)[0], a ^ b)
    np.testing.assert_array_equal(ours("BitwiseNot", a)[0], ~a)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_shifts_lose_the_bits_that_leave(dtype, ours):
    x, by = np.array([1, 255, 0x81, 7], dtype), np.array([1, 7, 0, 2], dtype)
    np.testing.assert_array_equal(ours("BitShift", x, by, direction="LEFT")[0], x << by)
    np.testing.assert_array_equal(ours("BitShift", x, by, direction="RIGHT")[0], x >> by)


def test_unknown_direction_of_a_shift_is_refused(ours):
    x = np.array([1], np.uint8)
    with pytest.raises(PortingError, match="direction"):
        ours("BitShift", x, x, direction="UP")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16, np.uint64, np.bool_])
def test_where_broadcasts_all_three(dtype, ours):
    condition = np.array([[True], [False]])
    a, b = np.array([1, 0, 1], dtype), np.array(0, dtype)
    np.testing.assert_array_equal(ours("Where", condition, a, b)[0], np.where(condition, a, b))
