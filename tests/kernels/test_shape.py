from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import ShapeError

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    "shape, expected",
    [((4, 6), (4, 6)), ((-1, 8), (3, 8)), ((0, -1), (2, 12)), ((0, 0, 2, 2), (2, 3, 2, 2)), ((24,), (24,))],
)
def test_reshape(shape, expected, ours):
    np.testing.assert_array_equal(ours("Reshape", X, ints(*shape))[0], X.reshape(expected))


def test_reshape_of_nothing(ours):
    empty = np.zeros((0, 3), np.float32)
    assert ours("Reshape", empty, ints(0, -1))[0].shape == (0, 0)
    assert ours("Reshape", empty, ints(3, 0), allowzero=1)[0].shape == (3, 0)


def test_reshape_of_opset_4_takes_an_attribute(ours):
    assert ours("Reshape", X, opset=4, shape=[6, -1])[0].shape == (6, 4)


def test_copying_the_size_of_a_missing_axis_is_refused(ours):
    with pytest.raises(ShapeError, match="does not have"):
        ours("Reshape", X, ints(2, 3, 4, 0))


@pytest.mark.parametrize("start, end", [(0, None), (1, None), (-1, None), (0, -1), (1, 2), (5, 9), (-9, 2)])
def test_shape_of_a_range_of_axes(start, end, ours, stock):
    attributes = {"start": start} if end is None else {"start": start, "end": end}
    np.testing.assert_array_equal(ours("Shape", X, **attributes)[0], stock("Shape", X, **attributes)[0])


def test_size(ours):
    assert ours("Size", X)[0] == 24
    assert ours("Size", X)[0].shape == ()


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_flatten(axis, ours, stock):
    np.testing.assert_array_equal(ours("Flatten", X, axis=axis)[0], stock("Flatten", X, axis=axis)[0])


def test_squeeze(ours):
    x = X.reshape(1, 2, 1, 12)
    assert ours("Squeeze", x)[0].shape == (2, 12)
    assert ours("Squeeze", x, ints(-2))[0].shape == (1, 2, 12)
    assert ours("Squeeze", x, opset=11, axes=[0])[0].shape == (2, 1, 12)
    with pytest.raises(ShapeError, match="size 1"):
        ours("Squeeze", x, ints(1))


def test_unsqueeze_counts_in_the_result(ours):
    assert ours("Unsqueeze", X, ints(0, -1))[0].shape == (1, 2, 3, 4, 1)
    assert ours("Unsqueeze", X, ints(3, 1))[0].shape == (2, 1, 3, 1, 4)
    assert ours("Unsqueeze", X, opset=11, axes=[1])[0].shape == (2, 1, 3, 4)
    with pytest.raises(ShapeError, match="twice"):
        ours("Unsqueeze", X, ints(0, -5))


@pytest.mark.parametrize("perm", [None, [0, 2, 1], [2, 0, 1]])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.bool_])
def test_transpose(perm, dtype, ours):
    attributes = {} if perm is None else {"perm": perm}
    x = X.astype(dtype)
    np.testing.assert_array_equal(ours("Transpose", x, **attributes)[0], x.transpose(perm))


@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 1, 1, 1), (1,), (2, 1, 4)])
def test_expand_broadcasts_both_ways(shape, ours):
    x = X[:, :1]
    expected = np.broadcast_to(x, np.broadcast_shapes(x.shape, shape))
    np.testing.assert_array_equal(ours("Expand", x, ints(*shape))[0], expected)
