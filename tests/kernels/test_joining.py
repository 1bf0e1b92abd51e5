from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import ShapeError

X = np.arange(30, dtype=np.float32).reshape(5, 6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint64, np.bool_])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(dtype, axis, ours):
    parts = [X.astype(dtype), (X + 1).astype(dtype)]
    np.testing.assert_array_equal(ours("Concat", *parts, axis=axis)[0], np.concatenate(parts, axis))


@pytest.mark.parametrize("opset", [2, 11, 13, 18])
def test_equal_parts(opset, ours):
    attributes = {"num_outputs": 3} if opset == 18 else {}
    parts = ours("Split", X, opset=opset, outputs=3, axis=1, **attributes)
    for part, expected in zip(parts, np.split(X, 3, 1), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_the_last_of_unequal_parts_is_smaller(ours):
    parts = ours("Split", X, opset=18, outputs=3, axis=0, num_outputs=3)
    assert [len(part) for part in parts] == [2, 2, 1]


def test_given_sizes(ours):
    by_operand = ours("Split", X, np.array([1, 0, 5], np.int64), opset=18, outputs=3, axis=-1)
    by_attribute = ours("Split", X, opset=11, outputs=3, axis=-1, split=[1, 0, 5])
    assert [part.shape for part in by_operand] == [part.shape for part in by_attribute] == [(5, 1), (5, 0), (5, 5)]


def test_sizes_that_do_not_fill_the_axis_are_refused(ours):
    with pytest.raises(ShapeError, match="do not fill"):
        ours("Split", X, np.array([1, 2], np.int64), opset=18, outputs=2, axis=0)


@pytest.mark.parametrize("repeats", [(1, 1), (2, 3), (0, 1)])
def test_tile(repeats, ours):
    np.testing.assert_array_equal(ours("Tile", X, np.array(repeats, np.int64))[0], np.tile(X, repeats))
