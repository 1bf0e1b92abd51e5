"""Where the elements of a resized axis come from, and how one axis is interpolated.

Coordinates are float32, as in onnxruntime: which neighbour is nearest depends on it. Interpolating float64 data takes
float64 coordinates.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from porting_kernels.errors import PortingError


@dataclasses.dataclass(frozen=True)
class Axis:
    """One resized axis: sizes before and after, the scale asked for, and the region of tf_crop_and_resize."""

    index: int
    size: int
    output: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    def coordinates(self, mode: str, dtype: torch.dtype) -> torch.Tensor:
        """Position in the input of each output element, (output,). ``mode`` is coordinate_transformation_mode."""
        x = torch.arange(self.output, dtype=dtype)
        scale = torch.tensor(self.scale, dtype=dtype)
        if mode == "half_pixel" or (mode == "pytorch_half_pixel" and self.output > 1):
            return (x + 0.5) / scale - 0.5
        if mode == "asymmetric":
            return x / scale
        if mode == "align_corners":
            return x * (self.size - 1) / (self.output - 1) if self.output > 1 else torch.zeros_like(x)
        if mode == "half_pixel_symmetric":
            adjustment = self.output / (scale * self.size)
            return self.size / 2 * (1 - adjustment) + (x + 0.5) / scale - 0.5
        if mode == "tf_crop_and_resize":
            last = self.size - 1
            if self.output > 1:
                return self.start * last + x * (self.end - self.start) * last / (self.output - 1)
            return torch.full_like(x, 0.5 * (self.start + self.end) * last)
        if mode == "tf_half_pixel_for_nn":
            return (x + 0.5) / scale
        if mode == "pytorch_half_pixel":
            return torch.zeros_like(x)
        raise PortingError("unknown coordinate_transformation_mode", met=mode)


def nearest(positions: torch.Tensor, size: int, mode: str, *, shrinking: bool) -> torch.Tensor:
    """Index of the element that stands for each position. ``mode`` is nearest_mode, or ``simple``.

    simple is what onnxruntime does before opset 11: truncate, or round up when the axis shrinks.
    """
    if mode == "simple":
        mode = "ceil" if shrinking else "floor"
    if mode == "round_prefer_floor":
        index = torch.ceil(positions - 0.5)
    elif mode == "round_prefer_ceil":
        index = torch.floor(positions + 0.5)
    elif mode == "floor":
        index = torch.floor(positions)
    elif mode == "ceil":
        index = torch.ceil(positions)
    else:
        raise PortingError(
            "unknown nearest_mode", required="round_prefer_floor, round_prefer_ceil, floor or ceil", met=mode
        )
    return index.long().clamp_(0, size - 1)


def _linear(distance: torch.Tensor) -> torch.Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: torch.Tensor, a: float) -> torch.Tensor:
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def taps(
    positions: torch.Tensor, axis: Axis, *, cubic_a: float | None, antialias: bool, exclude_outside: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and weights (taps, output) of each output element; cubic_a None is linear interpolation.

    antialias stretches the filter of a shrinking axis by 1 / scale. Taps beyond the ends count for the end elements,
    or with exclude_outside for nothing, the rest summing to one.
    """
    stretch = min(axis.scale, 1.0) if antialias else 1.0
    reach = math.ceil((1 if cubic_a is None else 2) / stretch)
    floor = positions.floor()
    places = floor + torch.arange(1 - reach, reach + 1)[:, None]
    distance = (places - positions).abs() * stretch
    weights = _linear(distance) if cubic_a is None else _cubic(distance, cubic_a)
    if exclude_outside:
        weights = weights * ((places >= 0) & (places < axis.size))
    if exclude_outside or stretch < 1:
        weights = weights / weights.sum(0)
    return places.long().clamp_(0, axis.size - 1), weights


def interpolate(x: torch.Tensor, axis: int, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over taps of x taken at indices along axis, times weights; x is float32 or float64."""
    column = (-1, *(1,) * (x.ndim - 1 - axis))
    total: torch.Tensor | None = None
    for index, weight in zip(indices, weights.to(x.dtype), strict=True):
        if not bool(weight.any()):
            continue
        term = x.index_select(axis, index).mul_(weight.reshape(column))
        total = term if total is None else total.add_(term)
    return x.index_select(axis, indices[0]).zero_() if total is None else total
