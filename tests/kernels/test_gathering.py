from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import ShapeError

X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("indices", [[0, 2], [[0, -1], [1, 2]], 1, []], ids=["1d", "2d", "scalar", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.bool_])
def test_gather_matches_numpy(axis, indices, dtype, ours):
    places, x = np.array(indices, np.int64), X.astype(dtype)
    np.testing.assert_array_equal(ours("Gather", x, places, axis=axis)[0], x.take(places, axis))


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_outside_is_an_error(index, ours):
    with pytest.raises((IndexError, RuntimeError)):
        ours("Gather", X, np.array([index], np.int64))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements_matches_stock(axis, rng, ours, stock):
    places = rng.integers(-3, 3, (2, 4, 5))
    operands = X[:, :, :], places
    np.testing.assert_array_equal(
        ours("GatherElements", *operands, axis=axis)[0], stock("GatherElements", *operands, axis=axis)[0]
    )


@pytest.mark.parametrize(
    "batch_dims, shape", [(0, (2, 3)), (0, (4, 1)), (0, (2, 2, 2)), (1, (3, 2, 1)), (2, (3, 4, 1))]
)
def test_gather_nd_matches_stock(batch_dims, shape, rng, ours, stock):
    places = rng.integers(-3, 3, shape)
    attributes = {"batch_dims": batch_dims}
    np.testing.assert_array_equal(
        ours("GatherND", X, places, **attributes)[0], stock("GatherND", X, places, **attributes)[0]
    )


def test_a_tuple_outside_is_refused(ours):
    with pytest.raises(ShapeError, match="outside"):
        ours("GatherND", X, np.array([[0, 4]], np.int64))
