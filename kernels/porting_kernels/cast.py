"""Cast, CastLike and BitCast: from every element type that is computed to every other.

Floats round to nearest even; to the 4- and 8-bit floats they saturate unless told otherwise. Integers that do not fit
lose their upper bits. Float to integer truncates toward zero.
"""

from __future__ import annotations

import torch

from porting_kernels import dtypes
from porting_kernels.dtypes import Dtype
from porting_kernels.errors import DtypeError, PortingError
from porting_kernels.registry import Context, kernel

_E8M0, _E2M1 = 24, 23
_FLOAT8 = (17, 18, 19, 20)
_OVERFLOW_TO_INFINITY = 19  # E5M2 is the only 8-bit float with infinities
_ORDINARY_FLOAT = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@kernel("Cast")
def cast(x: torch.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up", context: Context) -> torch.Tensor:
    """Values of x as another ONNX element type. In float64 mode a cast to an ordinary float type gives float64."""
    row = dtypes.by_code(to)
    if row.torch in _ORDINARY_FLOAT:
        return x.to(torch.float64 if context.numerics.float64 else row.torch)
    return cast_to(x, row, saturate=bool(saturate), round_mode=round_mode)


@kernel("CastLike", since=15)
def cast_like(x: torch.Tensor, like: torch.Tensor, *, saturate: int = 1, round_mode: str = "up") -> torch.Tensor:
    """Values of x in the dtype of ``like``."""
    return cast_to(x, dtypes.by_torch(like.dtype), saturate=bool(saturate), round_mode=round_mode)


@kernel("BitCast", since=26)
def bit_cast(x: torch.Tensor, *, to: int) -> torch.Tensor:
    """The bits of x read as another type of the same width. Types below one byte are carried and cannot be read so."""
    row = dtypes.by_code(to)
    if row.carried or x.element_size() * 8 != row.bits:
        raise DtypeError(
            "BitCast needs a type of the same width", required=f"{x.element_size() * 8} bits", met=f"{row.bits} bits"
        )
    return x.contiguous().view(row.torch)


def cast_to(x: torch.Tensor, row: Dtype, *, saturate: bool = True, round_mode: str = "up") -> torch.Tensor:
    """Values of x as element type ``row``; the result has the torch type that carries it."""
    if row.code == _E8M0:
        return _to_e8m0(x, saturate, round_mode)
    if row.code == _E2M1:
        return _to_e2m1(x)
    if row.code in _FLOAT8:
        return _to_float8(x, row, saturate)
    if not row.carried:
        return x.to(row.torch)
    return _to_small_integer(x, row)


def _to_small_integer(x: torch.Tensor, row: Dtype) -> torch.Tensor:
    """2- and 4-bit integers: floats round to nearest even first, then the lower bits are kept."""
    whole = torch.round(x.to(torch.float32)) if x.is_floating_point() else x
    size = 1 << row.bits
    low = whole.to(torch.int64).bitwise_and(size - 1)
    if row.torch is torch.int8:
        low = torch.where(low >= size // 2, low - size, low)
    return low.to(row.torch)


def _to_float8(x: torch.Tensor, row: Dtype, saturate: bool) -> torch.Tensor:
    """NaN stays NaN. Beyond the largest value: that value when saturating, else infinity (E5M2) or NaN."""
    if x.dtype is row.torch:
        return x
    wide = x.to(torch.float32)
    limit = torch.finfo(row.torch).max
    if saturate:
        return wide.clamp(-limit, limit).to(row.torch)
    # A value is out of range when it rounds beyond the limit; half a step above it still rounds back (ties to even).
    mantissa = {17: 3, 18: 3, 19: 2, 20: 2}[row.code]
    exponent = torch.frexp(torch.tensor(limit)).exponent.item() - 1
    midpoint = limit + 2.0 ** (exponent - mantissa - 1)
    last_is_even = round(limit / 2.0 ** (exponent - mantissa)) % 2 == 0
    outside = wide.abs() > midpoint if last_is_even else wide.abs() >= midpoint
    rounded = wide.clamp(-limit, limit).to(row.torch).to(torch.float32)
    beyond = torch.full_like(wide, torch.inf).copysign(wide) if row.code == _OVERFLOW_TO_INFINITY else torch.nan
    return torch.where(outside, beyond, rounded).to(row.torch)


def _to_e2m1(x: torch.Tensor) -> torch.Tensor:
    """4-bit floats, magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6: ties to the even mantissa, saturating.

    NaN becomes -0, as in ml_dtypes.
    """
    wide = x.to(torch.float32)
    magnitude = wide.abs().nan_to_num(nan=0.0).clamp(max=6.0)
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    rounded = (torch.round(magnitude / step) * step).copysign(wide)
    return torch.where(torch.isnan(wide), -0.0, rounded).to(torch.float8_e4m3fn)


def _to_e8m0(x: torch.Tensor, saturate: bool, round_mode: str) -> torch.Tensor:
    """Powers of two from 2**-127 to 2**127, code 255 is NaN. Zero is below the smallest."""
    wide = x.to(torch.float32)
    bits = wide.view(torch.int32)
    exponent = bits.bitwise_right_shift(23).bitwise_and(0xFF)
    mantissa = bits.bitwise_and(0x7FFFFF)
    if round_mode == "up":
        up = mantissa > torch.where(exponent == 0, 0x400000, 0)
    elif round_mode == "nearest":
        # Ties go up: the mantissa of a power of two has no last bit to be even.
        up = (mantissa >= 0x400000) & ((exponent > 0) | (mantissa > 0x400000))
    elif round_mode == "down":
        up = torch.zeros_like(mantissa, dtype=torch.bool)
    else:
        raise PortingError("unknown round_mode", required="up, nearest or down", met=round_mode)
    code = exponent + up
    too_small = wide.abs() < 2.0**-127
    code = torch.where(too_small, 0 if saturate else 0xFF, code)
    too_large = torch.isinf(wide) | (code > 0xFE)
    code = torch.where(too_large & ~too_small, 0xFE if saturate else 0xFF, code)
    return torch.where(torch.isnan(wide), 0xFF, code).to(torch.uint8).view(torch.float8_e8m0fnu)
