from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64])
def test_running_sums_match_stock(exclusive, reverse, axis, dtype, rng, ours, stock):
    operands = rng.integers(-9, 9, (3, 4)).astype(dtype), np.array(axis, np.int32)
    attributes = {"exclusive": exclusive, "reverse": reverse}
    np.testing.assert_array_equal(
        ours("CumSum", *operands, **attributes)[0], stock("CumSum", *operands, **attributes)[0]
    )


@pytest.mark.parametrize(
    "exclusive, reverse, expected", [(0, 0, [1, 2, 6]), (1, 0, [1, 1, 2]), (0, 1, [6, 6, 3]), (1, 1, [6, 3, 1])]
)
def test_running_products(exclusive, reverse, expected, ours):
    x = np.array([1, 2, 3], np.int32)
    found = ours("CumProd", x, np.array(0), opset=26, exclusive=exclusive, reverse=reverse)[0]
    assert found.dtype == np.int32
    assert found.tolist() == expected


def test_half_precision_accumulates_in_float32(ours):
    x = np.full(4096, 0.1, np.float16)
    found = ours("CumSum", x, np.array(0))[0]
    np.testing.assert_array_equal(found, np.cumsum(x.astype(np.float32)).astype(np.float16))
