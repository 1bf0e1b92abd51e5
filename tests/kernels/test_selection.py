from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from porting_kernels.errors import ShapeError


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint64, np.float16])
def test_best_first_and_ties_by_lower_place(largest, axis, dtype, rng, ours):
    x = rng.integers(0, 4, (5, 6)).astype(dtype)
    values, places = ours("TopK", x, np.array([3]), outputs=2, axis=axis, largest=largest)
    keys = -x.astype(np.int64) if largest else x.astype(np.int64)
    expected = np.argsort(keys, axis, kind="stable").take(range(3), axis)
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, axis))


def test_more_than_there_are_is_refused(ours):
    with pytest.raises(ShapeError, match="more elements"):
        ours("TopK", np.zeros(3, np.float32), np.array([4]), outputs=2)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16, np.bool_, np.float16])
def test_non_zero_matches_numpy(dtype, rng, ours):
    x = rng.integers(0, 2, (3, 4)).astype(dtype)
    np.testing.assert_array_equal(ours("NonZero", x)[0], np.array(np.nonzero(x)))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("in_order", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, ml_dtypes.bfloat16])
def test_unique_matches_stock(axis, in_order, dtype, rng, ours, stock):
    x = rng.integers(0, 2, (4, 3)).astype(dtype)
    attributes = {"sorted": in_order} | ({} if axis is None else {"axis": axis})
    found = ours("Unique", x, outputs=4, **attributes)
    expected = stock("Unique", x.astype(np.float32), outputs=4, **attributes)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.astype(np.float32), other)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.int32])
def test_one_hot_matches_the_reference(axis, dtype, ours, reference):
    indices = np.array([[0, 3], [-1, -4]]).astype(dtype)
    operands = indices, np.array(4), np.array([0.5, 2], np.float32)
    np.testing.assert_array_equal(ours("OneHot", *operands, axis=axis)[0], reference("OneHot", *operands, axis=axis)[0])


def test_an_index_outside_is_nowhere(ours):
    found = ours("OneHot", np.array([4, -5]), np.array(4), np.array([0, 1]))[0]
    assert not found.any()
