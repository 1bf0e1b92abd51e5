"""Reduce* over any axes, ArgMax and ArgMin.

Axes are an attribute up to opset 17 (12 for ReduceSum) and an operand after. Without axes all are reduced, or none
when ``noop_with_empty_axes`` says so. Half precision accumulates in float32. Integers keep their dtype: sums wrap
around, means truncate. An empty set gives the neutral element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from porting_kernels.carriers import WIDE_UNSIGNED, through_numpy
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel

Axes = tuple[int, ...]
Reduction = Callable[[torch.Tensor, Axes, bool], torch.Tensor]


def _sum(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _mean(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    count = x.numel() // max(_sum(torch.ones_like(x), axes, keep).numel(), 1)
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc")


def _product(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep, dtype=x.dtype)
    return x


def _lowest(dtype: torch.dtype) -> float | int | bool:
    if dtype.is_floating_point:
        return -torch.inf
    return False if dtype is torch.bool else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> float | int | bool:
    if dtype.is_floating_point:
        return torch.inf
    return True if dtype is torch.bool else torch.iinfo(dtype).max


def _empty(x: torch.Tensor, axes: Axes, keep: bool, value: float | int | bool) -> torch.Tensor:
    return torch.full_like(torch.sum(x, axes, keep), value, dtype=x.dtype)


def _max(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    return torch.amax(x, axes, keep) if x.numel() else _empty(x, axes, keep, _lowest(x.dtype))


def _min(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    return torch.amin(x, axes, keep) if x.numel() else _empty(x, axes, keep, _highest(x.dtype))


def _l1(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    return _sum(torch.abs(x), axes, keep)


def _l2(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.sqrt(torch.sum(x * x, axes, keep))
    return torch.sqrt(torch.sum(x.double().square(), axes, keep)).to(x.dtype)


def _log_sum(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    return torch.log(torch.sum(x, axes, keep)).to(x.dtype)


def _log_sum_exp(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    if x.is_floating_point():
        return torch.logsumexp(x, axes, keep)
    return torch.logsumexp(x.double(), axes, keep).to(x.dtype)


def _sum_square(x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor:
    return _sum(x * x, axes, keep)


def _wide_unsigned(op_type: str, x: torch.Tensor, axes: Axes, keep: bool) -> torch.Tensor | None:
    """Reductions of unsigned integers that torch lacks; None where it has them."""
    numpy_function: Any = {"ReduceMax": np.max, "ReduceMin": np.min}.get(op_type)
    if numpy_function is None or x.dtype not in WIDE_UNSIGNED:
        return None
    return through_numpy(numpy_function, x, axis=axes, keepdims=keep)


def _register(op_type: str, function: Reduction, axes_operand_since: int) -> None:
    def reduce(x: torch.Tensor, axes: Sequence[int] | None, keepdims: int, noop: int) -> torch.Tensor:
        if not axes:
            # Without axes, "no operation" still means the element-wise part: the reduction over no axis.
            axes = () if noop else range(x.dim())
        if not axes:
            return function(x.unsqueeze(0), (0,), False)
        keep = bool(keepdims)
        wide = _wide_unsigned(op_type, x, tuple(axes), keep)
        return function(x, tuple(axes), keep) if wide is None else wide

    @rounds_once
    def by_attribute(
        x: torch.Tensor, *, axes: Sequence[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> torch.Tensor:
        return reduce(x, axes, keepdims, noop_with_empty_axes)

    @rounds_once
    def by_operand(
        x: torch.Tensor, axes: torch.Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> torch.Tensor:
        return reduce(x, None if axes is None else axes.tolist(), keepdims, noop_with_empty_axes)

    kernel(op_type)(by_attribute)
    kernel(op_type, since=axes_operand_since)(by_operand)


_register("ReduceSum", _sum, 13)
for _op_type, _function in {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _max,
    "ReduceMean": _mean,
    "ReduceMin": _min,
    "ReduceProd": _product,
    "ReduceSumSquare": _sum_square,
}.items():
    _register(_op_type, _function, 18)


def _register_arg(
    op_type: str, torch_function: Callable[..., torch.Tensor], numpy_function: Callable[..., Any]
) -> None:
    def call(x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> torch.Tensor:
        # torch and numpy both give the first of equal elements; the last is the first from the other end.
        if x.dtype in WIDE_UNSIGNED:
            array = np.flip(x.numpy(), axis) if select_last_index else x.numpy()
            places = torch.from_numpy(np.asarray(numpy_function(array, axis=axis, keepdims=bool(keepdims))))
        else:
            places = torch_function(x.flip(axis) if select_last_index else x, axis, bool(keepdims))
        return x.shape[axis] - 1 - places if select_last_index else places

    kernel(op_type)(call)


_register_arg("ArgMax", torch.argmax, np.argmax)
_register_arg("ArgMin", torch.argmin, np.argmin)
