"""Operators on one tensor, element by element: rounding, roots, exponentials, trigonometry, tests of floats.

All keep shape and dtype, except IsNaN and IsInf, which give bool. Half precision is computed in float32 by torch and
rounded once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from porting_kernels.carriers import WIDE_UNSIGNED, through_numpy
from porting_kernels.registry import kernel

Unary = Callable[[torch.Tensor], torch.Tensor]


def _register(op_type: str, function: Unary) -> None:
    """The operator as it is from its first version on; ``consumed_inputs`` (opset 1 to 5) was a hint about memory."""

    def call(x: torch.Tensor, *, consumed_inputs: list[int] | None = None) -> torch.Tensor:
        return function(x)

    kernel(op_type)(call)


# Round goes to the nearest, ties to even.
_FLOATING: dict[str, Unary] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
for _op_type, _function in _FLOATING.items():
    _register(_op_type, _function)


@kernel("Abs")
def absolute(x: torch.Tensor, *, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """|x|; the most negative integer stays as it is."""
    return x if x.dtype in WIDE_UNSIGNED else torch.abs(x)


@kernel("Sign")
def sign(x: torch.Tensor) -> torch.Tensor:
    """-1, 0 or 1 in the dtype of x; NaN stays NaN, as numpy has it (torch.sign gives 0)."""
    if x.dtype in WIDE_UNSIGNED:
        return through_numpy(np.sign, x)
    if x.is_floating_point():
        return torch.where(torch.isnan(x), x, torch.sign(x))
    return torch.sign(x)


@kernel("IsNaN")
def is_nan(x: torch.Tensor) -> torch.Tensor:
    """True where x is NaN, for every float type."""
    return torch.isnan(x.to(torch.float32) if x.element_size() == 1 else x)


@kernel("IsInf")
def is_inf(x: torch.Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> torch.Tensor:
    """True where x is an infinity of a sign that is asked for."""
    if x.element_size() == 1:
        x = x.to(torch.float32)
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_positive:
        return torch.isposinf(x)
    return torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)
