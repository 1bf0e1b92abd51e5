"""DeformConv: a convolution whose taps are displaced by a second input."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel
from porting_kernels.window_geometry import windows


@kernel("DeformConv", since=19)
@rounds_once
def deform_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    offset: torch.Tensor,
    b: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Deformable convolution (v2 when mask is given) over two spatial axes.

    x (N, C, H, W), w (M, C/group, kH, kW), offset (N, offset_group*kH*kW*2, oH, oW) as (row, column) displacements in
    cells, mask (N, offset_group*kH*kW, oH, oW). Taps are bilinear samples, zero outside x. Source: ONNX operator
    DeformConv. Raises ShapeError for other ranks.
    """
    if x.ndim != 4:
        raise ShapeError("deformable convolution over this many axes", required="2 spatial axes", met=x.ndim - 2)
    n, channels, height, width = x.shape
    geometry = windows((height, width), kernel_shape or w.shape[2:], pads=pads, strides=strides, dilations=dilations)
    (kh, kw), (oh, ow) = geometry.kernel, geometry.output()
    taps = kh * kw
    offset = offset.reshape(n, offset_group, taps, 2, oh, ow)

    def axis(i: int, out: int) -> tuple[torch.Tensor, torch.Tensor]:
        origin = torch.arange(out, dtype=x.dtype) * geometry.strides[i] - geometry.begin[i]
        return origin, torch.arange(geometry.kernel[i], dtype=x.dtype) * geometry.dilations[i]

    (row0, tap_rows), (column0, tap_columns) = axis(0, oh), axis(1, ow)
    rows = offset[:, :, :, 0] + row0[:, None] + tap_rows.repeat_interleave(kw)[:, None, None]
    columns = offset[:, :, :, 1] + column0 + tap_columns.repeat(kh)[:, None, None]

    flat = x.reshape(n, offset_group, channels // offset_group, height * width)
    top, left = rows.floor(), columns.floor()
    samples = torch.zeros(n, offset_group, channels // offset_group, taps * oh * ow, dtype=x.dtype)
    for r, row_weight in ((top, 1 - (rows - top)), (top + 1, rows - top)):
        for c, column_weight in ((left, 1 - (columns - left)), (left + 1, columns - left)):
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            cells = (r.clamp(0, height - 1) * width + c.clamp(0, width - 1)).long()
            index = cells.reshape(n, offset_group, 1, -1).expand(-1, -1, flat.shape[2], -1)
            weight = (row_weight * column_weight * inside).reshape(n, offset_group, 1, -1)
            samples += flat.gather(3, index) * weight
    if mask is not None:
        samples *= mask.reshape(n, offset_group, 1, -1)
    samples = samples.reshape(n, group, channels // group * taps, oh * ow)
    y = w.reshape(group, w.shape[0] // group, -1) @ samples
    y = y.reshape(n, w.shape[0], oh, ow)
    return y if b is None else y + b[:, None, None]
