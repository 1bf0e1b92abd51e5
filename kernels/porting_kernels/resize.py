"""Resize and its forerunner Upsample: every axis sampled anew, nearest, linear or cubic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.interpolation import Axis, interpolate, nearest, taps
from porting_kernels.precision import widen
from porting_kernels.registry import kernel


def _axes(
    shape: Sequence[int],
    axes: Sequence[int] | None,
    roi: torch.Tensor | None,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    policy: str = "stretch",
) -> list[Axis]:
    """The axes named, with output sizes and scales resolved."""
    named = [a % len(shape) for a in (range(len(shape)) if axes is None else axes)]
    given = scales if scales is not None else sizes
    if given is None or (scales is not None and sizes is not None) or len(given) != len(named):
        raise ShapeError("Resize takes scales or sizes, one an axis", required=len(named), met=(scales, sizes))
    regions = [0.0] * len(named) + [1.0] * len(named) if roi is None else roi.tolist()
    starts, ends = regions[: len(named)], regions[len(named) :]
    if scales is not None:
        # onnxruntime takes this product in float32, which decides whether 0.7 * 10 gives 7 or 6.
        outputs = [
            int(np.float32(shape[a]) * np.float32((e - s) * f))
            for a, f, s, e in zip(named, scales, starts, ends, strict=True)
        ]
    else:
        assert sizes is not None
        ratios = [n / shape[a] for a, n in zip(named, sizes, strict=True)]
        if policy == "stretch":
            outputs, scales = list(sizes), ratios
        elif policy in ("not_larger", "not_smaller"):
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            outputs, scales = [math.floor(ratio * shape[a] + 0.5) for a in named], [ratio] * len(named)
        else:
            raise PortingError(
                "unknown keep_aspect_ratio_policy", required="stretch, not_larger or not_smaller", met=policy
            )
    return [Axis(a, shape[a], *rest) for a, *rest in zip(named, outputs, scales, starts, ends, strict=True)]


def _of_torch(x: torch.Tensor, axes: Sequence[Axis], coordinates: str) -> torch.Tensor | None:
    """Bilinear interpolation of images by torch, where it means the same: the last two axes, scales exact."""
    moving = [a for a in axes if a.output != a.size]
    plain = coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if not plain or x.ndim != 4 or x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return None
    size = list(x.shape[2:])
    for axis in axes:
        if axis.scale == 1 and axis.output == axis.size:
            continue
        pointed = coordinates == "pytorch_half_pixel" and axis.output == 1
        if axis.index < 2 or abs(axis.scale * axis.size - axis.output) > 1e-4 or pointed:
            return None
        size[axis.index - 2] = axis.output
    if not moving or 0 in size:
        return None
    return F.interpolate(x, size, mode="bilinear", align_corners=coordinates == "align_corners")


def _repeated(x: torch.Tensor, indices: dict[int, torch.Tensor]) -> torch.Tensor | None:
    """x enlarged by whole factors along its last two axes, if that is what indices say: faster than gathering."""
    factors = {a - x.ndim: len(index) // x.shape[a] for a, index in indices.items()}
    if min(factors) < -2 or any(
        not torch.equal(index, torch.arange(x.shape[a]).repeat_interleave(factors[a - x.ndim]))
        for a, index in indices.items()
    ):
        return None
    rows, columns = factors.get(-2, 1), factors.get(-1, 1)
    *outer, height, width = x.shape
    y = x.new_empty(*outer, height, rows, width * columns)
    first = y[..., 0, :]
    for column in range(columns):
        first[..., column::columns] = x
    y[..., 1:, :] = first.unsqueeze(-2)
    return y.reshape(*outer, height * rows, width * columns)


def _resize(
    x: torch.Tensor,
    axes: Sequence[Axis],
    *,
    mode: str,
    coordinates: str,
    nearest_mode: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    antialias: bool = False,
    exclude_outside: bool = False,
    extrapolation: float = 0.0,
) -> torch.Tensor:
    """Sample x along axes. Half precision interpolates in float32 and rounds once; integers truncate."""
    if mode not in ("nearest", "linear", "bilinear", "trilinear", "cubic"):
        raise PortingError("unknown interpolation", required="nearest, linear or cubic", met=mode)
    dtype = x.dtype
    if mode != "nearest":
        x = widen(x) if dtype.is_floating_point else x.to(torch.float32)
        if mode != "cubic" and not exclude_outside and not (antialias and any(a.scale < 1 for a in axes)):
            done = _of_torch(x, axes, coordinates)
            if done is not None:
                return done.to(dtype)
    precision = torch.float64 if x.dtype == torch.float64 and mode != "nearest" else torch.float32
    outside: list[tuple[int, torch.Tensor]] = []
    indices: dict[int, torch.Tensor] = {}
    for axis in axes:
        positions = axis.coordinates(coordinates, precision)
        if coordinates == "tf_crop_and_resize":
            outside.append((axis.index, (positions < 0) | (positions > axis.size - 1)))
        if axis.output == axis.size and torch.equal(positions, torch.arange(axis.size, dtype=precision)):
            continue
        if mode == "nearest":
            indices[axis.index] = nearest(positions, axis.size, nearest_mode, shrinking=axis.scale < 1)
        else:
            x = interpolate(
                x,
                axis.index,
                *taps(
                    positions,
                    axis,
                    cubic_a=cubic_a if mode == "cubic" else None,
                    antialias=antialias,
                    exclude_outside=exclude_outside,
                ),
            )
    if indices:
        picked = _repeated(x, indices) if x.ndim > 1 else None
        if picked is None:
            for index, places in indices.items():
                x = x.index_select(index, places)
        else:
            x = picked
    for index, mask in outside:
        if bool(mask.any()):
            x = x.masked_fill(mask.reshape(-1, *(1,) * (x.ndim - 1 - index)), extrapolation)
    if antialias and not dtype.is_floating_point and mode != "nearest":
        info = torch.iinfo(dtype)
        x = x.round().clamp(info.min, info.max)
    return x.to(dtype)


def _listed(tensor: torch.Tensor | None) -> list[float] | None:
    return None if tensor is None or tensor.numel() == 0 else tensor.tolist()


@kernel("Resize", since=11)
def resize(
    x: torch.Tensor,
    roi: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    sizes: torch.Tensor | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> torch.Tensor:
    """Sample x anew along axes (all by default), to scales or to sizes. Source: ONNX operator Resize, 11 to 19.

    Coordinates and output sizes are computed in float32, as onnxruntime does. roi counts only for
    tf_crop_and_resize. Raises ShapeError unless exactly one of scales and sizes has one entry an axis.
    """
    region = roi if roi is not None and roi.numel() and coordinate_transformation_mode == "tf_crop_and_resize" else None
    wanted = _listed(sizes)
    resolved = _axes(
        x.shape,
        axes,
        region,
        _listed(scales),
        None if wanted is None else [int(n) for n in wanted],
        keep_aspect_ratio_policy,
    )
    return _resize(
        x,
        resolved,
        mode=mode,
        coordinates=coordinate_transformation_mode,
        nearest_mode=nearest_mode,
        cubic_a=cubic_coeff_a,
        antialias=bool(antialias),
        exclude_outside=bool(exclude_outside),
        extrapolation=extrapolation_value,
    )


@kernel("Resize", since=10)
@kernel("Upsample", since=9)
def upsample(x: torch.Tensor, scales: torch.Tensor, *, mode: str = "nearest") -> torch.Tensor:
    """Resize of opset 10 and Upsample of 9: positions are index / scale, nearest as onnxruntime picks it."""
    axes = _axes(x.shape, None, None, scales.tolist(), None)
    return _resize(x, axes, mode=mode, coordinates="asymmetric", nearest_mode="simple")


@kernel("Upsample", since=7)
def upsample_7(x: torch.Tensor, *, scales: Sequence[float], mode: str = "nearest") -> torch.Tensor:
    """Upsample with the scales as attribute."""
    return _resize(
        x, _axes(x.shape, None, None, scales, None), mode=mode, coordinates="asymmetric", nearest_mode="simple"
    )


@kernel("Upsample", since=1)
def upsample_1(x: torch.Tensor, *, height_scale: float, width_scale: float, mode: str = "nearest") -> torch.Tensor:
    """Upsample of images (N, C, H, W)."""
    axes = _axes(x.shape, None, None, (1.0, 1.0, height_scale, width_scale), None)
    return _resize(x, axes, mode=mode, coordinates="asymmetric", nearest_mode="simple")
