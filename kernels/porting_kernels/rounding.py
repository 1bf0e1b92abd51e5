"""Ties and saturation on the way from float to integer codes."""

from __future__ import annotations

import torch

from porting_kernels.errors import PortingError
from porting_kernels.numerics import Rounding


def round_ties(x: torch.Tensor, mode: Rounding) -> torch.Tensor:
    """Round to the nearest integer, in the dtype of x; ``mode`` decides exact ties only.

    half_even: 0.5 -> 0, 1.5 -> 2. half_away: 0.5 -> 1, -0.5 -> -1. half_up: 0.5 -> 1, -0.5 -> 0.
    NaN and infinities pass through. The comparisons are made on x minus an integer next to it, which is exact:
    adding 0.5 first would turn 0.49999997 into 1.
    """
    if mode == "half_even":
        return torch.round(x)
    if mode == "half_away":
        whole = torch.trunc(x)
        return torch.where((x - whole).abs() >= 0.5, whole + torch.sign(x), whole)
    if mode == "half_up":
        whole = torch.floor(x)
        return torch.where(x - whole >= 0.5, whole + 1, whole)
    raise PortingError("unknown rounding", required="half_even, half_away or half_up", met=mode)


def saturate_int8(x: torch.Tensor, mode: Rounding) -> torch.Tensor:
    """Round x and clamp it to [-128, 127] as int8. NaN, which has no nearest code, becomes 0.

    Clamping first changes nothing, because the limits are integers, and keeps the rounding in a small range.
    """
    return round_ties(torch.nan_to_num(x, nan=0.0, posinf=127.0, neginf=-128.0).clamp_(-128, 127), mode).to(torch.int8)
