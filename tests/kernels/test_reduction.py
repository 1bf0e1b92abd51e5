from __future__ import annotations

import math

import numpy as np
import pytest

NAMES = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("axes", [None, (0,), (1, 2), (-1,), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_matches_stock_with_axes_as_operand_and_as_attribute(name, axes, keepdims, rng, ours, stock):
    x = rng.uniform(0.5, 2, (2, 3, 4)).astype(np.float32)
    operands = (x,) if axes is None else (x, ints(*axes))
    expected = stock(name, *operands, opset=18, keepdims=keepdims)[0]
    # Sums in another order: a few ULPs of the largest partial sum.
    np.testing.assert_allclose(ours(name, *operands, opset=18, keepdims=keepdims)[0], expected, rtol=2e-6)
    attributes = {} if axes is None else {"axes": list(axes)}
    np.testing.assert_allclose(ours(name, x, opset=11, keepdims=keepdims, **attributes)[0], expected, rtol=2e-6)


@pytest.mark.parametrize("name", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean", "ReduceSumSquare"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_keep_their_dtype(name, dtype, rng, ours, stock):
    x = rng.integers(-5, 5, (3, 4)).astype(dtype)
    found = ours(name, x, ints(1), opset=18)[0]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, stock(name, x, ints(1), opset=18)[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.uint64, np.bool_])
def test_extremes_of_every_type(dtype, rng, ours):
    x = rng.integers(0, 2, (3, 4)).astype(dtype)
    x[0, 0] = True if dtype is np.bool_ else np.iinfo(dtype).max
    np.testing.assert_array_equal(ours("ReduceMax", x, ints(0), opset=20, keepdims=0)[0], x.max(0))
    np.testing.assert_array_equal(ours("ReduceMin", x, ints(0), opset=20, keepdims=0)[0], x.min(0))


@pytest.mark.parametrize("name", ["ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceLogSum"])
def test_no_axes_may_mean_no_reduction(name, ours, reference):
    x = np.array([[1, 2], [3, 4]], np.float32)
    found = ours(name, x, opset=18, noop_with_empty_axes=1)[0]
    expected = {"ReduceSumSquare": x * x, "ReduceLogSum": np.log(x)}.get(name, x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ReduceSum", 0),
        ("ReduceProd", 1),
        ("ReduceMax", -math.inf),
        ("ReduceMin", math.inf),
        ("ReduceLogSumExp", -math.inf),
    ],
)
def test_an_empty_set_gives_the_neutral_element(name, expected, ours):
    found = ours(name, np.zeros((2, 0, 3), np.float32), ints(1), opset=20, keepdims=0)[0]
    np.testing.assert_array_equal(found, np.full((2, 3), expected, np.float32))


def test_half_precision_accumulates_in_float32(ours):
    x = np.full(4096, 0.1, np.float16)
    assert ours("ReduceSum", x, ints(0), keepdims=0)[0] == np.float16(x.astype(np.float32).sum())


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
def test_places_of_extremes_with_ties(name, dtype, axis, keepdims, last, rng, ours, stock):
    x = rng.integers(0, 3, (4, 5)).astype(dtype)
    attributes = {"axis": axis, "keepdims": keepdims, "select_last_index": last}
    np.testing.assert_array_equal(ours(name, x, **attributes)[0], stock(name, x, **attributes)[0])


def test_places_of_extremes_of_uint64(ours):
    x = np.array([[1, 2**64 - 1, 2**63, 2**64 - 1]], np.uint64)
    assert ours("ArgMax", x, axis=1)[0].tolist() == [[1]]
    assert ours("ArgMax", x, axis=1, select_last_index=1)[0].tolist() == [[3]]
