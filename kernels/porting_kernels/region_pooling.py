"""RoiAlign and MaxRoiPool: fixed-size features of boxes (x1, y1, x2, y2) in a feature map (N, C, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel


def _axis_samples(
    start: float, bin_size: float, bins: int, samples: int, size: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Low and high cell index and their weights for bins * samples points; points beyond one cell outside weigh 0."""
    steps = (torch.arange(samples, dtype=dtype) + 0.5) * (bin_size / max(samples, 1))
    points = (start + torch.arange(bins, dtype=dtype)[:, None] * bin_size + steps).flatten()
    inside = ((points >= -1.0) & (points <= size)).to(dtype)
    points = points.clamp(0, size - 1)
    low = points.floor()
    fraction = points - low
    high = (low + 1).clamp(max=size - 1)
    return low.long(), high.long(), (1 - fraction) * inside, fraction * inside


def _roi_align(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch_indices: torch.Tensor,
    *,
    half_pixel: bool,
    mode: str,
    output_height: int,
    output_width: int,
    sampling_ratio: int,
    spatial_scale: float,
) -> torch.Tensor:
    shift = 0.5 if half_pixel else 0.0
    y = x.new_empty(rois.shape[0], x.shape[1], output_height, output_width)
    for r, (box, image) in enumerate(zip((rois * spatial_scale - shift).tolist(), batch_indices.tolist(), strict=True)):
        width, height = box[2] - box[0], box[3] - box[1]
        if not half_pixel:  # the older form forces malformed boxes to one cell
            width, height = max(width, 1.0), max(height, 1.0)
        bin_h, bin_w = height / output_height, width / output_width
        rows = sampling_ratio if sampling_ratio > 0 else max(math.ceil(bin_h), 0)
        columns = sampling_ratio if sampling_ratio > 0 else max(math.ceil(bin_w), 0)
        top, bottom, top_weight, bottom_weight = _axis_samples(box[1], bin_h, output_height, rows, x.shape[2], x.dtype)
        left, right, left_weight, right_weight = _axis_samples(
            box[0], bin_w, output_width, columns, x.shape[3], x.dtype
        )
        corners = [
            x[image][:, v][:, :, h] * (a[:, None] * b)
            for v, a in ((top, top_weight), (bottom, bottom_weight))
            for h, b in ((left, left_weight), (right, right_weight))
        ]
        bins = (x.shape[1], output_height, rows, output_width, columns)
        if rows * columns == 0:
            y[r] = 0
        elif mode == "avg":
            y[r] = (corners[0] + corners[1] + corners[2] + corners[3]).reshape(bins).mean(dim=(2, 4))
        else:  # the maximum of the weighted corners, not of the interpolated points: onnx.reference and onnxruntime
            y[r] = torch.stack(corners).amax(0).reshape(bins).amax(dim=(2, 4))
    return y


@kernel("RoiAlign", since=16)
@rounds_once
def roi_align(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch_indices: torch.Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> torch.Tensor:
    """Bilinear samples of each box pooled into (R, C, output_height, output_width). Source: ONNX operator RoiAlign."""
    return _roi_align(
        x,
        rois,
        batch_indices,
        half_pixel=coordinate_transformation_mode == "half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@kernel("RoiAlign", since=10)
@rounds_once
def roi_align_10(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch_indices: torch.Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> torch.Tensor:
    """RoiAlign before opset 16: no half-pixel shift of the boxes."""
    return _roi_align(
        x,
        rois,
        batch_indices,
        half_pixel=False,
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@kernel("MaxRoiPool")
def max_roi_pool(
    x: torch.Tensor, rois: torch.Tensor, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0
) -> torch.Tensor:
    """Maximum of each bin of each box (batch, x1, y1, x2, y2); corners round to cells, both included; empty bins are 0.

    Source: ONNX operator MaxRoiPool (Fast R-CNN); rounding half away from zero as onnxruntime.
    """
    rows, columns = pooled_shape
    height, width = x.shape[2:]
    y = x.new_zeros(rois.shape[0], x.shape[1], rows, columns)
    for r, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (math.floor(abs(v) * spatial_scale + 0.5) * (1 if v >= 0 else -1) for v in box)
        bin_h, bin_w = max(y2 - y1 + 1, 1) / rows, max(x2 - x1 + 1, 1) / columns
        for i in range(rows):
            top = min(max(math.floor(i * bin_h) + y1, 0), height)
            bottom = min(max(math.ceil((i + 1) * bin_h) + y1, 0), height)
            for j in range(columns):
                left = min(max(math.floor(j * bin_w) + x1, 0), width)
                right = min(max(math.ceil((j + 1) * bin_w) + x1, 0), width)
                if top < bottom and left < right:
                    y[r, :, i, j] = x[int(image), :, top:bottom, left:right].amax(dim=(1, 2))
    return y
