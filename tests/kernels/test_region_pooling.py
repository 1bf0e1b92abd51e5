from __future__ import annotations

import numpy as np
import pytest


def regions(rng):
    x = rng.standard_normal((2, 3, 9, 12)).astype(np.float32)
    corners = rng.uniform(-1, 20, (6, 4)).astype(np.float32)
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    return x, boxes, rng.integers(0, 2, 6)


@pytest.mark.parametrize("opset", [10, 16])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_matches_stock_runtime(opset, mode, sampling_ratio, rng, ours, stock):
    operands = regions(rng)
    attributes = {"output_height": 3, "output_width": 2, "sampling_ratio": sampling_ratio, "spatial_scale": 0.5}
    got, want = (run("RoiAlign", *operands, opset=opset, mode=mode, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)  # sample positions are float32 products in two orders


def test_roi_align_without_the_half_pixel_shift(rng, ours, stock):
    operands = regions(rng)
    attributes = {"coordinate_transformation_mode": "output_half_pixel", "sampling_ratio": 1}
    got, want = (run("RoiAlign", *operands, opset=16, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_max_roi_pool_matches_stock_runtime(rng, ours, stock):
    x, boxes, images = regions(rng)
    rois = np.concatenate([images[:, None].astype(np.float32), np.abs(boxes)], 1)
    attributes = {"pooled_shape": [2, 3], "spatial_scale": 0.5}
    got, want = (run("MaxRoiPool", x, rois, opset=13, **attributes)[0] for run in (ours, stock))
    np.testing.assert_array_equal(got, want)
