"""From a histogram to the range that an activation is quantized for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from porting_kernels.dyadic_histogram import BINS, DyadicHistogram
from porting_passes.quantization_parameters import ActivationRange
from porting_passes.quantization_style import Symmetry

PERCENTILE = 0.9999
"""Share of the values that stay inside (each tail gives up half of the rest); the usual choice of int8 toolchains."""
_LEVELS = 128
_CANDIDATES = 128


def percentile(histogram: DyadicHistogram, symmetry: Symmetry) -> ActivationRange:
    """The range that holds ``PERCENTILE`` of the values, to the width of a bin; never wider than the extremes."""
    if symmetry == "symmetric":
        limit = _quantile(histogram.counts.sum(axis=0), histogram.zeros, PERCENTILE) * histogram.width
        return _clipped(histogram, limit, limit)
    tail = (1 + PERCENTILE) / 2
    negative, positive = histogram.counts[1], histogram.counts[0]
    high = _quantile(positive, histogram.zeros + int(negative.sum()), tail) * histogram.width
    low = _quantile(negative, histogram.zeros + int(positive.sum()), tail) * histogram.width
    return _clipped(histogram, low, high)


def mean_square_error(histogram: DyadicHistogram, symmetry: Symmetry) -> ActivationRange:
    """Of 128 shrunken forms of the full range, the one with the least expected square error of int8 codes.

    Values count at the centres of their bins; asymmetric ranges shrink at both ends by the same factor.
    """
    centres = (np.arange(BINS) + 0.5) * histogram.width
    values = np.concatenate([-centres[::-1], centres])
    weights = np.concatenate([histogram.counts[1][::-1], histogram.counts[0]]).astype(np.float64)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if symmetry == "symmetric":
        high = max(-low, high)
        low = -high
    best, chosen = np.inf, 1.0
    for factor in np.arange(_CANDIDATES, 0, -1) / _CANDIDATES:
        step = (high - low) * factor / (254 if symmetry == "symmetric" else 255)
        if step == 0:
            break
        least, most = round(low * factor / step), round(high * factor / step)
        error = float(weights @ (np.clip(np.rint(values / step), least, most) * step - values) ** 2)
        if error < best:
            best, chosen = error, float(factor)
    return _clipped(histogram, -low * chosen, high * chosen)


def entropy(histogram: DyadicHistogram, symmetry: Symmetry) -> ActivationRange:
    """The clipping of magnitudes that loses the least information (Kullback-Leibler) when 128 levels stand for it.

    Candidates end every 16 bins from 128 on. What lies beyond counts into the last bin of the clipped distribution.
    """
    magnitudes = histogram.counts.sum(axis=0).astype(np.float64)
    used = int(np.flatnonzero(magnitudes)[-1]) + 1 if magnitudes.any() else 0
    if used <= _LEVELS:
        return _clipped(histogram, -histogram.low, histogram.high)
    best, chosen = np.inf, used
    for end in (*range(_LEVELS, used, 16), used):
        clipped = magnitudes[:end].copy()
        clipped[-1] += magnitudes[end:].sum()
        divergence = _divergence(clipped, _levelled(magnitudes[:end]))
        if divergence < best:
            best, chosen = divergence, end
    return _clipped(histogram, chosen * histogram.width, chosen * histogram.width)


METHODS: dict[str, Callable[[DyadicHistogram, Symmetry], ActivationRange]] = {
    "percentile": percentile,
    "mse": mean_square_error,
    "entropy": entropy,
}
"""Methods that look at a histogram; ``minmax`` needs none."""


def _clipped(histogram: DyadicHistogram, low: float, high: float) -> ActivationRange:
    """[-low, high] inside the extremes that were seen."""
    least, most = min(histogram.low, 0.0), max(histogram.high, 0.0)
    return ActivationRange(max(-abs(low), least), min(abs(high), most))


def _quantile(counts: np.ndarray, below: int, share: float) -> int:
    """Number of bins that are needed so that, with the ``below`` smaller values, ``share`` of all is inside."""
    total = below + int(counts.sum())
    if total == 0:
        return 0
    reached = below + np.cumsum(counts)
    return int(np.searchsorted(reached, share * total)) + 1 if below < share * total else 0


def _levelled(magnitudes: np.ndarray) -> np.ndarray:
    """The distribution that 128 levels can express: each level's mass spread over its bins that are not empty."""
    edges = np.linspace(0, magnitudes.size, _LEVELS + 1).astype(np.int64)
    level = np.searchsorted(edges, np.arange(magnitudes.size), side="right") - 1
    filled = magnitudes > 0
    mass = np.bincount(level, magnitudes, minlength=_LEVELS)
    bins = np.bincount(level, filled, minlength=_LEVELS)
    return np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) over the bins of p; a bin that only p has counts with a small share of q."""
    p, q = p / p.sum(), q / max(q.sum(), 1.0)
    inside = p > 0
    return float(np.sum(p[inside] * np.log(p[inside] / np.maximum(q[inside], 1e-12))))
