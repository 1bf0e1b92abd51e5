from __future__ import annotations

import numpy as np
import pytest


def thresholds(limit, iou, score):
    return np.array([limit], np.int64), np.array([iou], np.float32), np.array([score], np.float32)


@pytest.mark.parametrize("center_point_box", [0, 1])
@pytest.mark.parametrize("limit, iou, score", [(100, 0.4, 0.2), (3, 0.1, -1.0), (100, 0.0, 0.0), (100, 1.0, 0.5)])
def test_matches_stock_runtime(center_point_box, limit, iou, score, rng, ours, stock):
    if center_point_box:
        boxes = rng.uniform(1, 5, (2, 40, 4))
    else:
        corners = rng.uniform(0, 10, (2, 40, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(-4, 4, (2, 40, 2))], 2)  # corners in any order
    scores = rng.random((2, 3, 40))
    operands = boxes.astype(np.float32), scores.astype(np.float32), *thresholds(limit, iou, score)
    got, want = (run("NonMaxSuppression", *operands, center_point_box=center_point_box)[0] for run in (ours, stock))
    np.testing.assert_array_equal(got, want)


def test_equal_scores_keep_the_lower_number_first(ours):
    boxes = np.array([[[0, 0, 1, 1], [5, 5, 6, 6], [0, 0, 1, 1]]], np.float32)
    got = ours("NonMaxSuppression", boxes, np.full((1, 1, 3), 0.5, np.float32), *thresholds(9, 0.5, 0.0))[0]
    np.testing.assert_array_equal(got, [[0, 0, 0], [0, 0, 1]])


def test_without_a_limit_nothing_is_kept(ours):
    boxes, scores = np.zeros((1, 2, 4), np.float32), np.ones((1, 1, 2), np.float32)
    for operands in ((), (np.array(0, np.int64),)):
        got = ours("NonMaxSuppression", boxes, scores, *operands)[0]
        assert got.shape == (0, 3)
        assert got.dtype == np.int64


def test_boxes_without_area_suppress_nothing(ours):
    boxes = np.array([[[1, 1, 1, 1], [1, 1, 1, 1]]], np.float32)
    got = ours("NonMaxSuppression", boxes, np.array([[[0.9, 0.8]]], np.float32), *thresholds(9, 0.0, 0.0))[0]
    assert len(got) == 2
