"""Pad: by a constant, by the edge, by reflection, or around; negative pads crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from porting_kernels.carriers import moves
from porting_kernels.errors import PortingError
from porting_kernels.registry import kernel

_INDEX_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@kernel("Pad")
def pad_opset_1(
    x: torch.Tensor, *, paddings: Sequence[int], mode: str = "constant", value: float = 0.0
) -> torch.Tensor:
    """Pad of opset 1."""
    return _padded(x, list(paddings), mode, value, list(range(x.dim())))


@kernel("Pad", since=2)
def pad_by_attributes(
    x: torch.Tensor, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0
) -> torch.Tensor:
    """Pad of opset 2 to 10: pads and value are attributes."""
    return _padded(x, list(pads), mode, value, list(range(x.dim())))


@kernel("Pad", since=11)
def pad(
    x: torch.Tensor,
    pads: torch.Tensor,
    value: torch.Tensor | None = None,
    axes: torch.Tensor | None = None,
    *,
    mode: str = "constant",
) -> torch.Tensor:
    """x with pads before and after each named axis: all begins, then all ends. Negative ones crop."""
    named = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes.tolist()]
    return _padded(x, pads.tolist(), mode, 0 if value is None else value.item(), named)


def _padded(x: torch.Tensor, pads: list[int], mode: str, value: float, axes: list[int]) -> torch.Tensor:
    if len(pads) != 2 * len(axes):
        raise PortingError("Pad needs two numbers an axis", required=2 * len(axes), met=len(pads))
    begins, ends = pads[: len(axes)], pads[len(axes) :]
    if mode == "constant":
        ordered = [0] * (2 * x.dim())
        for axis, begin, end in zip(axes, begins, ends, strict=True):
            place = 2 * (x.dim() - 1 - axis)
            ordered[place : place + 2] = [begin, end]
        return F.pad(x, ordered, value=value)
    if mode not in _INDEX_MODES:
        raise PortingError("unknown mode of Pad", required="constant, " + ", ".join(_INDEX_MODES), met=mode)
    return _padded_by_index(x, begins, ends, mode, axes)


@moves
def _padded_by_index(x: torch.Tensor, begins: list[int], ends: list[int], mode: str, axes: list[int]) -> torch.Tensor:
    for axis, begin, end in zip(axes, begins, ends, strict=True):
        if not begin and not end:
            continue
        kept = np.arange(max(-begin, 0), x.shape[axis] - max(-end, 0))
        places = np.pad(kept, (max(begin, 0), max(end, 0)), mode=_INDEX_MODES[mode])  # type: ignore[call-overload]
        x = x.index_select(axis, torch.from_numpy(places))
    return x
