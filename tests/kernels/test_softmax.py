from __future__ import annotations

import math

import numpy as np
import pytest


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    "opset, axis", [(opset, axis) for opset in (9, 11, 13) for axis in (None, 0, 1, 2)] + [(11, -1), (13, -1), (13, -3)]
)
def test_matches_stock_runtime(op_type, opset, axis, rng, ours, stock):
    x = rng.standard_normal((3, 4, 5)).astype(np.float32) * 5
    attributes = {} if axis is None else {"axis": axis}
    got, want = (run(op_type, x, opset=opset, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


def test_hardmax_takes_the_first_of_equals(ours):
    x = np.array([[1, 3, 3, 2], [0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(ours("Hardmax", x, opset=13)[0], [[0, 1, 0, 0], [1, 0, 0, 0]])


def test_softmax_of_extremes(ours):
    x = np.array([[1e30, 1e30, -math.inf], [-1e30, 0, 0]], np.float32)
    np.testing.assert_array_equal(ours("Softmax", x, opset=13)[0], [[0.5, 0.5, 0], [0, 0.5, 0.5]])


def test_half_softmax_rounds_once(rng, ours):
    x = (rng.standard_normal((4, 50)) * 4).astype(np.float16)
    wide = ours("Softmax", x.astype(np.float32), opset=13)[0]
    np.testing.assert_array_equal(ours("Softmax", x, opset=13)[0], wide.astype(np.float16))
