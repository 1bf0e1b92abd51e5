"""AveragePool, MaxPool, LpPool, their global forms, and MaxUnpool.

x is (N, C, D1..Dn) with one to three spatial axes. Inputs are padded, windows folded one axis after the other, and
averages are sums divided by the number of elements that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from porting_kernels.errors import ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import Context, kernel
from porting_kernels.window_geometry import Windows, windows


def _geometry(
    x: torch.Tensor,
    kernel_shape: Sequence[int] | None,
    auto_pad: str,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
) -> Windows:
    if not kernel_shape or not 1 <= x.ndim - 2 <= 3:
        raise ShapeError("pooling needs a kernel_shape and 1 to 3 spatial axes", met=(kernel_shape, tuple(x.shape)))
    return windows(x.shape[2:], kernel_shape, auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations)


def _folded(
    x: torch.Tensor, geometry: Windows, output: Sequence[int], combine: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Each window of the padded x folded by an associative combine(a, b, out=), one axis after the other.

    A few whole-tensor operations an axis: up to ten times as fast as torch's poolings, which walk window by window.
    """
    for axis, count in enumerate(output, 2):
        stride, dilation = geometry.strides[axis - 2], geometry.dilations[axis - 2]
        folded: torch.Tensor | None = None
        for tap in range(0, geometry.kernel[axis - 2] * dilation, dilation):
            part = x.narrow(axis, tap, (count - 1) * stride + 1)
            part = part[(slice(None),) * axis + (slice(None, None, stride),)]
            if folded is None:
                folded = part
            elif tap == dilation:
                folded = combine(folded, part)
            else:
                combine(folded, part, out=folded)
        assert folded is not None
        x = folded
    return x


def _max_pool(x: torch.Tensor, geometry: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    """Maxima of a padded x and their flat index in its spatial plane, by torch.

    One axis runs as two, 8-bit volumes as float32 (exact).
    """
    kernel, strides, dilations = geometry.kernel, geometry.strides, geometry.dilations
    if len(kernel) == 1:
        y, i = F.max_pool2d_with_indices(x.unsqueeze(2), (1, *kernel), (1, *strides), (0, 0), (1, *dilations))
        return y.squeeze(2), i.squeeze(2)
    if len(kernel) == 2:
        return F.max_pool2d_with_indices(x, kernel, strides, (0,) * len(kernel), dilations)
    wide = x if x.dtype.is_floating_point else x.to(torch.float32)
    y, i = F.max_pool3d_with_indices(wide, kernel, strides, (0,) * len(kernel), dilations)
    return y.to(x.dtype), i


@kernel("MaxPool")
def max_pool(
    x: torch.Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    context: Context | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Largest element of each window, padding excluded, and on request its int64 index.

    Indices are flat over the whole of x, with the spatial axes in row-major order (storage_order 0) or column-major
    order (1). Source: ONNX operator MaxPool.
    """
    geometry = _geometry(x, kernel_shape, auto_pad, pads, strides, dilations)
    output = geometry.output(ceil_mode=bool(ceil_mode))
    lowest = -math.inf if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
    padded = geometry.pad(x, lowest, output=output)
    if context is None or context.outputs < 2:
        return _folded(padded, geometry, output, torch.maximum).contiguous()
    values, flat = _max_pool(padded, geometry)
    plane, origin = tuple(padded.shape[2:]), geometry.begin
    indices, step = torch.zeros_like(flat), 1
    coordinates = torch.unravel_index(flat, plane)
    order = range(len(plane)) if storage_order else reversed(range(len(plane)))
    for axis in order:
        indices += (coordinates[axis] - origin[axis]) * step
        step *= geometry.size[axis]
    planes = torch.arange(x.shape[0] * x.shape[1]) * step
    return values, indices + planes.reshape(x.shape[0], x.shape[1], *(1,) * len(plane))


def _elements(geometry: Windows, output: Sequence[int], include_pads: bool) -> torch.Tensor:
    """How many elements each window covers, inside the input or the explicitly padded input. Float64, (*output,)."""
    total = torch.ones((), dtype=torch.float64)
    for axis, count in enumerate(output):
        begin, end = (geometry.begin[axis], geometry.end[axis]) if include_pads else (0, 0)
        start = torch.arange(count) * geometry.strides[axis] - geometry.begin[axis]
        taps = start[:, None] + torch.arange(geometry.kernel[axis]) * geometry.dilations[axis]
        inside = ((taps >= -begin) & (taps < geometry.size[axis] + end)).sum(1)
        total = total.unsqueeze(-1) * inside
    return total


@kernel("AveragePool")
@rounds_once
def average_pool(
    x: torch.Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Mean of each window over the input's elements, or with count_include_pad over the padded input's.

    The overhang that ceil_mode adds beyond the pads never counts. Source: ONNX operator AveragePool.
    """
    geometry = _geometry(x, kernel_shape, auto_pad, pads, strides, dilations)
    output = geometry.output(ceil_mode=bool(ceil_mode))
    sums = _folded(geometry.pad(x, 0, output=output), geometry, output, torch.add)
    return sums / _elements(geometry, output, bool(count_include_pad)).to(x.dtype)


@kernel("LpPool")
@rounds_once
def lp_pool(
    x: torch.Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    kernel_shape: Sequence[int] | None = None,
    p: float = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """(sum of |x|**p over each window)**(1/p); padding adds nothing. Source: ONNX operator LpPool."""
    geometry = _geometry(x, kernel_shape, auto_pad, pads, strides, dilations)
    output = geometry.output(ceil_mode=bool(ceil_mode))
    powers = geometry.pad(x, 0, output=output).abs() ** p
    return _folded(powers, geometry, output, torch.add) ** (1.0 / p)


@kernel("GlobalAveragePool")
@rounds_once
def global_average_pool(x: torch.Tensor) -> torch.Tensor:
    """Mean over all spatial axes, kept as ones."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@kernel("GlobalMaxPool")
def global_max_pool(x: torch.Tensor) -> torch.Tensor:
    """Maximum over all spatial axes, kept as ones."""
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


@kernel("GlobalLpPool")
@rounds_once
def global_lp_pool(x: torch.Tensor, *, p: float = 2) -> torch.Tensor:
    """p-norm over all spatial axes, kept as ones."""
    return (x.abs() ** p).sum(dim=tuple(range(2, x.ndim)), keepdim=True) ** (1.0 / p)


@kernel("MaxUnpool", since=9)
def max_unpool(
    x: torch.Tensor,
    indices: torch.Tensor,
    output_shape: torch.Tensor | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:
    """Scatter x to its MaxPool indices, zeros elsewhere.

    Indices count over the shape that the windows imply; a larger output_shape is filled with zeros at the ends.
    Source: ONNX operator MaxUnpool and its node tests.
    """
    rank = x.ndim - 2
    strides = strides or (1,) * rank
    pads = pads or (0,) * 2 * rank
    implied = [
        (n - 1) * s + k - pads[i] - pads[i + rank]
        for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel_shape, strict=True))
    ]
    shape = (x.shape[0], x.shape[1], *implied)
    y = x.new_zeros(math.prod(shape))
    y[indices.flatten()] = x.flatten()
    y = y.reshape(shape)
    if output_shape is None:
        return y
    wanted = output_shape.tolist()
    return F.pad(y, [v for n, m in zip(reversed(wanted[2:]), reversed(implied), strict=True) for v in (0, n - m)])
