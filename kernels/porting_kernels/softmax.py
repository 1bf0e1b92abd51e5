"""Softmax, LogSoftmax and Hardmax.

From opset 13 on they act along one axis; before, x counts as a matrix, flattened before and from ``axis`` on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel


def _hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    """One at the first maximum along axis, zero elsewhere."""
    return torch.zeros_like(x).scatter_(axis, x.argmax(dim=axis, keepdim=True), 1)


def _as_matrix(function: Callable[[torch.Tensor, int], torch.Tensor], x: torch.Tensor, axis: int) -> torch.Tensor:
    rows = math.prod(x.shape[: axis % x.ndim if axis < 0 else axis])
    return function(x.reshape(rows, x.numel() // max(rows, 1)), 1).reshape(x.shape)


@kernel("Softmax", since=13)
@rounds_once
def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """exp(x - max) / sum along axis."""
    return torch.softmax(x, axis)


@kernel("LogSoftmax", since=13)
@rounds_once
def log_softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """X - max - log(sum(exp(x - max))) along axis."""
    return torch.log_softmax(x, axis)


@kernel("Hardmax", since=13)
def hardmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """One at the first maximum along axis, zero elsewhere."""
    return _hardmax(x, axis)


@kernel("Softmax", since=1)
@rounds_once
def softmax_1(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """Softmax over all axes from ``axis`` on together."""
    return _as_matrix(torch.softmax, x, axis)


@kernel("LogSoftmax", since=1)
@rounds_once
def log_softmax_1(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """LogSoftmax over all axes from ``axis`` on together."""
    return _as_matrix(torch.log_softmax, x, axis)


@kernel("Hardmax", since=1)
def hardmax_1(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """Hardmax over all axes from ``axis`` on together."""
    return _as_matrix(_hardmax, x, axis)
