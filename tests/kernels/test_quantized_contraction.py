from __future__ import annotations

import numpy as np
import pytest


def scalar(value, dtype=np.float32):
    return np.array(value, dtype)


@pytest.mark.parametrize("x_dtype, w_dtype", [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)])
@pytest.mark.parametrize("bias", [False, True])
def test_qlinear_conv_matches_stock_runtime(x_dtype, w_dtype, bias, rng, ours, stock):
    def codes(dtype, *shape):
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape, dtype=dtype)

    x, w = codes(x_dtype, 1, 4, 7, 6), codes(w_dtype, 6, 2, 3, 3)
    operands = [
        x, scalar(0.03), scalar(12, x_dtype), w, (rng.random(6) * 0.01 + 0.001).astype(np.float32),
        np.full(6, 0 if w_dtype == np.int8 else 117, w_dtype), scalar(0.4), scalar(5, x_dtype),
    ]  # fmt: skip
    operands += [rng.integers(-999, 999, 6, dtype=np.int32)] if bias else []
    attributes = {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1], "opset": 10}
    got, want = (run("QLinearConv", *operands, **attributes)[0] for run in (ours, stock))
    assert got.dtype == x_dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_matmul_matches_stock_runtime(dtype, rng, ours, stock):
    a, b = (rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, s, dtype=dtype) for s in ((2, 5, 64), (64, 7)))
    operands = a, scalar(0.02), scalar(9, dtype), b, scalar(0.013), scalar(-3 if dtype == np.int8 else 3, dtype)
    operands += scalar(0.9), scalar(1, dtype)
    got, want = (run("QLinearMatMul", *operands, opset=10)[0] for run in (ours, stock))
    np.testing.assert_array_equal(got, want)


def test_qlinear_matmul_scales_a_row_and_a_column(rng, ours):
    a, b = rng.integers(0, 256, (3, 8), dtype=np.uint8), rng.integers(0, 256, (8, 4), dtype=np.uint8)
    row, column = rng.random(3, np.float32) * 0.01, rng.random(4, np.float32)
    zero = np.zeros
    got = ours(
        "QLinearMatMul",
        a,
        row,
        zero(3, np.uint8),
        b,
        column,
        zero(4, np.uint8),
        scalar(2.0),
        scalar(0, np.uint8),
        opset=10,
    )[0]
    exact = (a.astype(np.float64) @ b) * (row[:, None].astype(np.float64) * column / 2)
    np.testing.assert_array_equal(got, np.clip(np.rint(exact), 0, 255))
