"""NonMaxSuppression: keep the best of overlapping boxes."""

from __future__ import annotations

import torch

from porting_kernels.precision import widen
from porting_kernels.registry import kernel


def _corners(boxes: torch.Tensor, center_point_box: int) -> torch.Tensor:
    """(..., 4) as low and high corner of both axes, whatever the order or form given."""
    if center_point_box:
        center, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat((center - half, center + half), -1)
    a, b = boxes[..., :2], boxes[..., 2:]
    return torch.cat((torch.minimum(a, b), torch.maximum(a, b)), -1)


def _kept(boxes: torch.Tensor, limit: int, iou_threshold: float) -> list[int]:
    """Places of the boxes kept, of boxes (B, 4) best first: each removes what overlaps it beyond the threshold."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    candidates = torch.arange(len(boxes))
    kept: list[int] = []
    while len(kept) < limit and len(candidates):
        best, candidates = candidates[0], candidates[1:]
        kept.append(int(best))
        others = boxes[candidates]
        overlap = torch.minimum(boxes[best, 2:], others[:, 2:]) - torch.maximum(boxes[best, :2], others[:, :2])
        intersection = overlap.clamp_(min=0).prod(1)
        union = areas[best] + areas[candidates] - intersection
        # Boxes without area overlap nothing, as in onnxruntime.
        suppressed = (intersection > iou_threshold * union) & (areas[best] > 0) & (areas[candidates] > 0) & (union > 0)
        candidates = candidates[~suppressed]
    return kept


@kernel("NonMaxSuppression", since=10)
def non_max_suppression(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    max_output_boxes_per_class: torch.Tensor | None = None,
    iou_threshold: torch.Tensor | None = None,
    score_threshold: torch.Tensor | None = None,
    *,
    center_point_box: int = 0,
) -> torch.Tensor:
    """Rows (batch, class, box), int64, by batch and class and then best score first; equal scores by box number.

    boxes (N, B, 4) as two opposite corners (y, x, y, x), or with center_point_box as (x, y, width, height). scores
    (N, C, B). Without max_output_boxes_per_class nothing is kept. Source: ONNX operator NonMaxSuppression.
    """
    limit = 0 if max_output_boxes_per_class is None else int(max_output_boxes_per_class)
    threshold = 0.0 if iou_threshold is None else float(iou_threshold)
    corners, scores = _corners(widen(boxes), center_point_box), widen(scores)
    rows: list[tuple[int, int, int]] = []
    for batch in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            order = torch.sort(scores[batch, label], descending=True, stable=True).indices
            if score_threshold is not None:
                order = order[scores[batch, label][order] > float(score_threshold)]
            kept = order[_kept(corners[batch][order], limit, threshold)] if limit > 0 else order[:0]
            rows.extend((batch, label, box) for box in kept.tolist())
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
