"""Position, scale and offset: quantization parameters that split the step into a power of two and a remainder.

    q = saturate(round(x * scale / 2**position + offset))        x = (q - offset) * 2**position / scale

Source: Cambricon/mlu-ops:core/tool.cpp and mlu_op.h (facts, chips-datacentre, section 2). The split exists for
integer pipelines that shift by ``position``; because multiplying by a power of two is exact, the codes equal those of
the single multiplier ``scale / 2**position``.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from porting_kernels.errors import PortingError
from porting_kernels.numerics import Rounding
from porting_kernels.rounding import round_ties

BITS = (8, 16, 31)
LEAST_POSITION = -127


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Parameters of one range. scale is a float32 value in [1, 2) up to rounding, without a unit."""

    bits: int
    position: int
    scale: float = 1.0
    offset: int = 0

    @property
    def multiplier(self) -> float:
        """The one factor of quantization, scale / 2**position: codes per unit of x."""
        return math.ldexp(self.scale, -self.position)

    @property
    def step(self) -> float:
        """The value of one code, 2**position / scale, in float64."""
        return math.ldexp(1.0 / self.scale, self.position)

    def quantize(self, x: torch.Tensor, rounding: Rounding) -> torch.Tensor:
        """Integer codes of x (any shape) as int64, computed in float64."""
        codes = round_ties(x.to(torch.float64) * self.multiplier + self.offset, rounding)
        return codes.clamp_(-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1).to(torch.int64)

    def dequantize(self, codes: torch.Tensor) -> torch.Tensor:
        """Integer codes -> float64 values."""
        return (codes.to(torch.float64) - self.offset) * self.step


def symmetric(absmax: float, bits: int = 8) -> FixedPoint:
    """Parameters for [-absmax, absmax]: position = floor(log2(absmax)) - (bits - 2), codes up to 2**(bits-1) - 1.

    An all-zero range gets position 0 and scale 1. Position is not taken below -127: ranges smaller than
    2**(bits - 129) use part of the codes.
    """
    _check(bits, absmax)
    if absmax == 0:
        return FixedPoint(bits, 0)
    position = _floor_log2(absmax) - (bits - 2)
    if position < LEAST_POSITION:
        return FixedPoint(bits, LEAST_POSITION)
    return FixedPoint(bits, position, _float32(math.ldexp(((1 << (bits - 1)) - 1) / absmax, position)))


def asymmetric(low: float, high: float, bits: int = 8) -> FixedPoint:
    """Parameters for [low, high], widened to contain 0, which then has a code of its own.

    position = floor(log2(high - low)) - (bits - 1), scale = 2**position * (2**bits - 1) / (high - low),
    offset = round(-2**(bits-1) - low * (2**bits - 1) / (high - low)), half to even.
    """
    _check(bits, low, high)
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low
    if span == 0:
        return FixedPoint(bits, 0)
    offset = round(-(1 << (bits - 1)) - low * ((1 << bits) - 1) / span)
    position = _floor_log2(span) - (bits - 1)
    if position < LEAST_POSITION:
        return FixedPoint(bits, LEAST_POSITION, offset=offset)
    return FixedPoint(bits, position, _float32(math.ldexp(((1 << bits) - 1) / span, position)), offset)


def _floor_log2(x: float) -> int:
    return math.frexp(x)[1] - 1


def _float32(x: float) -> float:
    return torch.tensor(x, dtype=torch.float64).to(torch.float32).item()


def _check(bits: int, *limits: float) -> None:
    if bits not in BITS:
        raise PortingError("no fixed-point form of this width", required=f"one of {BITS}", met=bits)
    if not all(math.isfinite(v) for v in limits):
        raise PortingError("a quantization range must be finite", met=limits)
