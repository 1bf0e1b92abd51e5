"""The native loops, each beside the torch form that defines it.

Without the module (not built, or PORTING_NATIVE=0 in the environment) every function here runs its torch form: the
same results bit for bit, slower. The loops are single-threaded and release the interpreter lock.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import torch

from porting_kernels import dyadic_histogram, fp8
from porting_kernels.dyadic_histogram import DyadicHistogram, NonFiniteError
from porting_kernels.errors import ShapeError
from porting_kernels.numerics import Rounding
from porting_kernels.rounding import saturate_int8

SWITCH = "PORTING_NATIVE"


def _load() -> ModuleType | None:
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        module = importlib.import_module("porting_kernels._native")
    except ImportError:
        return None
    # One that was built from older sources counts as missing.
    return module if all(hasattr(module, loop) for loop in _LOOPS) else None


_LOOPS = ("quantize_int8", "dyadic_histogram", "dequantize_e4m3", "dequantize_e4m3_bfloat16")


_module = _load()
available = _module is not None
"""Whether the native loops run; ``porting doctor`` shows it."""

_ROUNDING_CODES: dict[Rounding, int] = {"half_even": 0, "half_away": 1, "half_up": 2}


def instruction_set() -> str | None:
    """The widest instruction set that the dispatcher of the native module picks on this machine; None without it."""
    return None if _module is None else str(_module.instruction_set())


def quantize_int8(x: torch.Tensor, scale: float, offset: int, rounding: Rounding) -> torch.Tensor:
    """saturate(round(x * scale + offset)) as int8; x: float32, any shape. See ``rounding.saturate_int8``."""
    if _module is None or x.dtype != torch.float32:
        return saturate_int8(x * scale + offset, rounding)
    x = x.contiguous()
    codes = torch.empty(x.shape, dtype=torch.int8)
    _module.quantize_int8(x.view(-1).numpy(), codes.view(-1).numpy(), scale, offset, _ROUNDING_CODES[rounding])
    return codes


def histogram(x: torch.Tensor) -> DyadicHistogram:
    """The dyadic histogram of a float32 tensor in one pass over memory. See ``dyadic_histogram.reference``."""
    if _module is None or x.numel() == 0:
        return dyadic_histogram.reference(x)
    counts, exponent, zeros, low, high, non_finite = _module.dyadic_histogram(x.contiguous().view(-1).numpy())
    if non_finite >= 0:
        index = torch.unravel_index(torch.tensor(non_finite), x.shape)
        raise NonFiniteError(x.reshape(-1)[non_finite].item(), tuple(int(i) for i in index))
    return DyadicHistogram(exponent, counts.reshape(2, dyadic_histogram.BINS), zeros, low, high)


def dequantize_blocks(
    codes: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    *,
    block: tuple[int, int] = fp8.BLOCK,
    first_row: int = 0,
    first_column: int = 0,
) -> int:
    """out[:] = block-scaled codes, and the number of NaN codes among them. See ``fp8.dequantize_blocks``.

    codes: [r, c] float8 or int8. scales: [R, C] float32 or as there. out: [r, c] float32, bfloat16 or float16, any
    strides: the float32 product is rounded to it once more, half to even.
    """
    fp8.check_blocks(codes, scales, block, first_row, first_column)
    if out.shape != codes.shape:
        raise ShapeError("codes and result differ in shape", required=list(codes.shape), met=list(out.shape))
    corner = {"first_row": first_row, "first_column": first_column}
    if _module is None or codes.dtype != torch.float8_e4m3fn:
        out.copy_(fp8.dequantize_blocks(codes, scales, block=block, **corner))
        return int(fp8.is_nan(codes).sum())
    direct = out.dtype in (torch.float32, torch.bfloat16) and (out.stride(1) == 1 or out.shape[1] <= 1)
    target = out if direct else torch.empty(out.shape, dtype=torch.float32)
    narrow = target.dtype == torch.bfloat16
    nan = (_module.dequantize_e4m3_bfloat16 if narrow else _module.dequantize_e4m3)(
        (codes if codes.stride(1) == 1 else codes.contiguous()).view(torch.uint8).numpy(),
        fp8.decode_scales(scales).contiguous().numpy(),
        (target.view(torch.uint16) if narrow else target).numpy(),
        block_rows=block[0],
        block_columns=block[1],
        **corner,
    )
    if not direct:
        out.copy_(target)
    return int(nan)
