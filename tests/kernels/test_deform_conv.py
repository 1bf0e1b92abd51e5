from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import ShapeError


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_without_displacement_it_is_a_convolution(rng, ours):
    x, w, b = normal(rng, 2, 4, 6, 7), normal(rng, 6, 2, 3, 3), normal(rng, 6)
    attributes = {"group": 2, "pads": [1, 0, 1, 2], "strides": [2, 1], "dilations": [1, 2]}
    conv = ours("Conv", x, w, b, **attributes)[0]
    offset = np.zeros((2, 18, *conv.shape[2:]), np.float32)
    np.testing.assert_allclose(ours("DeformConv", x, w, offset, b, **attributes)[0], conv, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_displaced_taps_match_stock_runtime(masked, rng, ours, stock):
    x, w, b = normal(rng, 1, 4, 5, 6), normal(rng, 3, 4, 2, 2), normal(rng, 3)
    offset = normal(rng, 1, 2 * 2 * 4, 4, 5) * 2  # many taps fall outside
    operands = [x, w, offset, b] + ([rng.random((1, 8, 4, 5), np.float32)] if masked else [])
    got, want = (run("DeformConv", *operands, offset_group=2)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_one_spatial_axis_is_refused(rng, ours):
    with pytest.raises(ShapeError):
        ours("DeformConv", normal(rng, 1, 1, 5), normal(rng, 1, 1, 2), normal(rng, 1, 2, 4))
