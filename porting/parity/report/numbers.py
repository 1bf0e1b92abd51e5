"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

from porting.parity.metrics import SQNR_CAP_DB


def decibel(value: float) -> str:
    """SQNR; the cut end of the scale is a word."""
    if value >= SQNR_CAP_DB:
        return "exact"
    return "lost" if value <= -SQNR_CAP_DB else f"{value:.1f}"


def scientific(value: float) -> str:
    """A magnitude with three digits: ``0``, ``0.0123``, ``4.56e-7``."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def cosine(value: float) -> str:
    """Six decimals, and never a rounded-up 1."""
    if value == 1:
        return "1"
    return f"{value:.6f}" if value < 0.9999995 else "> 0.999999"


def count(value: int | None) -> str:
    """An integer with thin grouping, or a dash."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def steps(value: int | None) -> str:
    """A distance in ULP; beyond 2**16 (values of opposite sign, say) the number itself means nothing."""
    return count(value) if value is None or value <= 1 << 16 else f"> {count(1 << 16)}"


def nonfinite(metrics: Any) -> int:
    """NaN and infinities of one side only."""
    return int(metrics["nan_count"]) + int(metrics["inf_count"])
