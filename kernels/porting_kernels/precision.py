"""In which float format an operator computes, and where it rounds.

Half-precision operators compute in float32 and round once, at their outputs. That is the exact meaning a backend's
own arithmetic is compared with, and what stock onnxruntime does on CPU: it casts around its float32 kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_HALF = (torch.float16, torch.bfloat16)
_F = TypeVar("_F", bound=Callable[..., Any])


def is_half(dtype: torch.dtype) -> bool:
    """True for float16 and bfloat16."""
    return dtype in _HALF


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """float16 and bfloat16 as float32; every other dtype unchanged, without a copy."""
    return tensor.to(torch.float32) if tensor.dtype in _HALF else tensor


def rounds_once(function: _F) -> _F:
    """Run a kernel in float32 when its first operand is half precision, and round its float32 outputs to that dtype.

    All half operands are widened; integer operands and outputs pass unchanged. Costs one comparison when the first
    operand is float32 or float64.
    """

    @functools.wraps(function)
    def run(*operands: Any, **attributes: Any) -> Any:
        dtype = operands[0].dtype
        if dtype not in _HALF:
            return function(*operands, **attributes)
        results = function(*[widen(o) if isinstance(o, torch.Tensor) else o for o in operands], **attributes)
        if isinstance(results, tuple):
            return tuple(_narrow(r, dtype) for r in results)
        return _narrow(results, dtype)

    return run  # type: ignore[return-value]


def _narrow(result: Any, dtype: torch.dtype) -> Any:
    return result.to(dtype) if isinstance(result, torch.Tensor) and result.dtype == torch.float32 else result
