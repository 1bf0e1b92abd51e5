from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import PortingError, ShapeError

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements_matches_stock(reduction, axis, rng, ours, stock):
    indices = np.array([[0, 1, -1], [2, -2, 0]]) if axis else np.array([[0, 1, -1], [2, -3, 0]])
    updates = rng.standard_normal((2, 3)).astype(np.float32)
    operands, attributes = (X, indices, updates), {"axis": axis, "reduction": reduction}
    found, expected = (run("ScatterElements", *operands, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
@pytest.mark.parametrize("shape", [(2, 1), (2, 2), (2, 1, 2)])
def test_scatter_nd_matches_stock(reduction, shape, rng, ours, stock):
    indices = np.array([0, 2, 1, -1])[: np.prod(shape)].reshape(shape)
    updates = rng.standard_normal(shape[:-1] + X.shape[shape[-1] :]).astype(np.float32)
    operands, attributes = (X, indices, updates), {"reduction": reduction}
    found, expected = (run("ScatterND", *operands, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_equal_places_are_all_added(ours):
    found = ours("ScatterND", np.zeros(3, np.float32), np.array([[1], [1]]), np.ones(2, np.float32), reduction="add")[0]
    np.testing.assert_array_equal(found, [0, 2, 0])


@pytest.mark.parametrize("dtype", [np.uint16, np.bool_, np.float16])
def test_the_operand_is_not_written_to(dtype, ours):
    x = X.astype(dtype)
    found = ours("ScatterElements", x, np.array([[0]]), np.ones((1, 1), dtype))[0]
    assert found[0, 0] == 1
    np.testing.assert_array_equal(x, X.astype(dtype))


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_a_cache_is_written_from_each_start(mode, ours, reference):
    cache, update = np.zeros((2, 4, 3), np.float32), np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    starts = np.array([1, 3 if mode == "circular" else 2])
    operands = cache, update, starts
    found, expected = (run("TensorScatter", *operands, opset=24, mode=mode)[0] for run in (ours, reference))
    np.testing.assert_array_equal(found, expected)


def test_bad_reductions_modes_and_places_are_refused(ours):
    one = np.ones(1, np.float32)
    with pytest.raises(PortingError, match="reduction"):
        ours("ScatterND", X, np.array([[0, 0]]), one, reduction="mean")
    with pytest.raises(PortingError, match="mode"):
        ours("TensorScatter", X, X, opset=24, mode="spiral")
    with pytest.raises(ShapeError, match="outside"):
        ours("ScatterND", X, np.array([[3, 0]]), one)
