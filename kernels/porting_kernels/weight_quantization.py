"""Symmetric int8 and int4 codes of a weight, one scale a row or a group of columns: the torch form of the native loop.

Weights are quantized from float32. What is stored in fewer bits is widened first, never rounded on the way.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch

from porting_kernels.errors import DtypeError, PortingError, ShapeError

Search = Literal["absmax", "mse"]
LIMITS = {8: 127, 4: 7}
"""Bits -> the code of the largest magnitude when nothing is clipped; codes go from -limit - 1 to limit."""

LEAST_SCALE = 2.0**-126
"""The smallest normal float32. Devices take a smaller scale for zero, and a scale of zero for an error."""

STEPS = 64
"""Clipping factors are multiples of 1 / STEPS."""
COARSE = range(STEPS, 0, -4)
FINE = (3, 2, 1, -1, -2, -3)
LANES = 64
"""Partial sums of the squared error, so that the loop and its torch form add in one order."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was met, counted in scales (one a row, or one a group of a row), the last in codes.

    zero: nothing but zeros. not_finite: a NaN or an infinity. tiny: too small for a normal scale, so that it got the
    least one. saturated: codes that clipping has brought back to the limits.
    """

    zero: int = 0
    not_finite: int = 0
    tiny: int = 0
    saturated: int = 0

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            self.zero + other.zero,
            self.not_finite + other.not_finite,
            self.tiny + other.tiny,
            self.saturated + other.saturated,
        )


def check(
    w: torch.Tensor,
    bits: int,
    group: int | None,
    search: str,
    divisor: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Raise DtypeError, ShapeError or PortingError unless ``quantize_rows`` takes these."""
    if w.dtype != dtype:
        raise DtypeError(f"weights are quantized from {dtype}", required=dtype, met=w.dtype)
    if w.ndim != 2 or (group is not None and (group < 1 or w.shape[1] % group)):
        raise ShapeError(
            "a weight is quantized row by row, in groups of one size",
            required="two axes" + (f", columns that are a multiple of {group}" if group is not None else ""),
            met=list(w.shape),
        )
    if bits not in LIMITS or search not in get_args(Search):
        raise PortingError(
            "no such quantization of weights",
            required=f"{' or '.join(map(str, LIMITS))} bits, search {' or '.join(get_args(Search))}",
            met=f"{bits} bits, search {search}",
        )
    if divisor is not None and not LIMITS[bits] <= divisor <= LIMITS[bits] + 0.5:
        raise PortingError(
            "no such divisor of weights", required=f"{LIMITS[bits]} to {LIMITS[bits] + 0.5}", met=divisor
        )


def quantize_rows(
    w: torch.Tensor,
    *,
    bits: int,
    group: int | None = None,
    search: Search = "absmax",
    divisor: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Findings]:
    """Codes int8 (R, K), scales float32 (R, G), and what was met; w: float32 (R, K).

    group: columns under one scale, a divisor of K; None for the whole row (G = 1). bits: 8 or 4, the limit L being 127
    or 7. divisor: D, the limit without one; L + 0.5 makes a scale of the whole range of codes.
    All arithmetic is float32, each operation rounded once:

    - base = max(max|w| / D, LEAST_SCALE) over the group. A group of zeros thus has the least scale and codes of zero.
    - ``absmax``: scale = base. ``mse``: scale = max(base * f, LEAST_SCALE) for the factor f = j / 64 with the least
      square error, equal ones going to the larger factor; j is searched among 64, 60, ... 4, then within 3 of the best.
      The error is f**2 * sum((t - q)**2) with t = (w / base) * (64 / j), q the code of t; column k adds to partial sum
      k mod 64 in order, then halves of the sums are added until one is left. A group with base = LEAST_SCALE keeps it.
    - code = clamp(round_half_even(w / scale), -L - 1, L).
    - A group with NaN or infinity: scale NaN, codes 0.

    Raises DtypeError unless w is float32, ShapeError when groups do not divide the columns.
    Source: absmax and the clamp as msModelSlim (msmodelslim/ir/api/impl/int_quantization.py), whose eps is larger.
    """
    check(w, bits, group, search, divisor)
    limit = LIMITS[bits]
    rows, columns = w.shape
    groups = 1 if group is None else columns // group
    if not w.numel():
        # A row without columns is a group of zeros; groups of them there are none.
        zero = rows * groups
        return w.to(torch.int8), torch.full((rows, groups), LEAST_SCALE), Findings(zero=zero)
    grouped = w.reshape(rows * groups, -1)
    absmax = grouped.abs().amax(1)
    finite = torch.isfinite(absmax)
    exact = torch.where(finite, absmax, 0.0) / (divisor or limit)
    base = exact.clamp_min(LEAST_SCALE)
    values = torch.where(finite[:, None], grouped, 0.0)
    scale = base if search == "absmax" else _searched(values, base, limit)
    rounded = torch.round(values / scale[:, None])
    codes = rounded.clamp(-limit - 1, limit)
    findings = Findings(
        zero=int((absmax == 0).sum()),
        not_finite=int((~finite).sum()),
        tiny=int(((absmax > 0) & (exact < LEAST_SCALE) & finite).sum()),
        saturated=int((codes != rounded).sum()),
    )
    scales = torch.where(finite, scale, torch.nan)
    return codes.to(torch.int8).reshape(rows, columns), scales.reshape(rows, groups), findings


def _searched(values: torch.Tensor, base: torch.Tensor, limit: int) -> torch.Tensor:
    relative = values / base[:, None]
    best = torch.full_like(base, STEPS)
    least = torch.full_like(base, torch.inf)

    def consider(factor: torch.Tensor) -> None:
        nonlocal best, least
        error = _error(relative, factor, limit)
        better = ((error < least) | ((error == least) & (factor > best))) & (factor <= STEPS)
        best, least = torch.where(better, factor, best), torch.where(better, error, least)

    for step in COARSE:
        consider(torch.full_like(base, step))
    middle = best
    for offset in FINE:
        consider(middle + offset)
    scale = (base * (best / STEPS)).clamp_min(LEAST_SCALE)
    return torch.where(base > LEAST_SCALE, scale, base)


def _error(relative: torch.Tensor, factor: torch.Tensor, limit: int) -> torch.Tensor:
    """Square error in units of base**2; relative: (R, K) in units of base; factor: (R,) in steps."""
    scaled = relative * (STEPS / factor)[:, None]
    squares = (scaled - torch.round(scaled).clamp(-limit - 1, limit)).square()
    padded = torch.nn.functional.pad(squares, (0, -squares.shape[1] % LANES)).reshape(len(squares), -1, LANES)
    sums = padded[:, 0].clone()
    for chunk in range(1, padded.shape[1]):
        sums += padded[:, chunk]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    share = factor / STEPS
    return sums[:, 0] * (share * share)
