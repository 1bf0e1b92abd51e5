from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import PortingError, ShapeError

# Weights come from coordinates of float32 products; cubic weights cancel.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [0, 1])
def test_images_match_stock_runtime(mode, padding_mode, align_corners, rng, ours, stock):
    x = rng.standard_normal((2, 3, 5, 6)).astype(np.float32)
    grid = rng.uniform(-1.4, 1.4, (2, 4, 7, 2)).astype(np.float32)
    attributes = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    got, want = (run("GridSample", x, grid, opset=20, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)
    older = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    np.testing.assert_array_equal(ours("GridSample", x, grid, opset=16, **{**attributes, "mode": older})[0], got)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_volumes_match_stock_runtime(mode, rng, ours, stock):
    x = rng.standard_normal((1, 2, 3, 4, 5)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (1, 2, 3, 4, 3)).astype(np.float32)
    got, want = (run("GridSample", x, grid, opset=20, mode=mode)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)


def test_what_torch_lacks_is_refused(rng, ours):
    x, grid = np.zeros((1, 1, 2, 2, 2), np.float32), np.zeros((1, 1, 1, 1, 3), np.float32)
    with pytest.raises(ShapeError):
        ours("GridSample", x, grid, opset=20, mode="cubic")
    with pytest.raises(PortingError, match="mode"):
        ours("GridSample", x[0], grid[0], opset=20, mode="area")


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("axes", [2, 3])
def test_affine_grid_matches_stock_runtime(align_corners, axes, rng, ours, stock):
    theta = rng.standard_normal((2, axes, axes + 1)).astype(np.float32)
    size = np.array([2, 3, 4, 5, 6][: axes + 2], np.int64)
    got, want = (run("AffineGrid", theta, size, opset=20, align_corners=align_corners)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
