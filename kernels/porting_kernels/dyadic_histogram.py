"""Histograms whose sum does not depend on the order of the summands.

A range is [-2**e, 2**e); each sign has 2048 bins of equal width. Doubling the range merges neighbouring bins in pairs,
so the bins of a small range nest exactly in those of a larger one, and any order of observing and merging samples
gives the same counts. That is what makes calibration independent of the number of threads.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from porting_kernels.errors import PortingError

BINS = 2048
LEAST_EXPONENT = -100
"""Smaller ranges share one histogram range: below 2**-111, one bin, no activation is worth telling apart."""


class NonFiniteError(PortingError):
    """A NaN or an infinity where statistics are taken."""

    def __init__(self, value: float, index: tuple[int, ...]) -> None:
        super().__init__("a value is not finite", required="finite values", met=value, where=f"element {list(index)}")
        self.value = value
        self.index = index


@dataclasses.dataclass(frozen=True)
class DyadicHistogram:
    """Counts of float32 values.

    counts[0, i]: values >= 0 in [i, i + 1) * width, exact zeros excluded; counts[1, i]: the same of -x for values < 0.
    int64, shape (2, 2048); width = 2**exponent / 2048. zeros: number of exact zeros. low, high: the least and the
    greatest value, +inf and -inf when there is none.
    """

    exponent: int
    counts: np.ndarray
    zeros: int
    low: float
    high: float

    @property
    def width(self) -> float:
        """The width of one bin, a power of two."""
        return 2.0**self.exponent / BINS

    @property
    def total(self) -> int:
        """Number of values, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def widened(self, exponent: int) -> DyadicHistogram:
        """The same values over [-2**exponent, 2**exponent); exponent is not below the present one."""
        steps = exponent - self.exponent
        if steps <= 0:
            return self
        counts = np.zeros_like(self.counts)
        merged = 1 << min(steps, BINS.bit_length() - 1)
        kept = BINS // merged
        counts[:, :kept] = self.counts.reshape(2, kept, merged).sum(axis=2)
        return dataclasses.replace(self, exponent=exponent, counts=counts)

    def merged(self, other: DyadicHistogram) -> DyadicHistogram:
        """The histogram of both sets of values."""
        exponent = max(self.exponent, other.exponent)
        counts = self.widened(exponent).counts + other.widened(exponent).counts
        zeros = self.zeros + other.zeros
        return DyadicHistogram(exponent, counts, zeros, min(self.low, other.low), max(self.high, other.high))


def empty() -> DyadicHistogram:
    """The histogram of no values."""
    return DyadicHistogram(LEAST_EXPONENT, np.zeros((2, BINS), dtype=np.int64), 0, float("inf"), float("-inf"))


def exponent_of(absmax: float) -> int:
    """The least exponent e >= -100 with absmax < 2**e."""
    return max(int(np.frexp(absmax)[1]), LEAST_EXPONENT) if absmax else LEAST_EXPONENT


def reference(x: torch.Tensor) -> DyadicHistogram:
    """The histogram of a float32 tensor, in plain torch. Raises NonFiniteError at the first NaN or infinity."""
    if x.numel() == 0:
        return empty()
    low, high = (v.item() for v in torch.aminmax(x))
    if not np.isfinite(low) or not np.isfinite(high):
        index = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise NonFiniteError(x[tuple(index)].item(), tuple(index))
    exponent = exponent_of(max(-low, high))
    flat = x.reshape(-1)
    # Scaling by a power of two is exact; truncating the magnitude keeps the sides apart even where it underflows to 0.
    bins = (flat.abs() * 2.0 ** (11 - exponent)).to(torch.int64) + BINS * (flat < 0)
    counts = torch.bincount(bins, minlength=2 * BINS)
    zeros = int((flat == 0).sum())
    counts[0] -= zeros
    # 0.0 is added so that a range of -0.0 reads 0.0.
    return DyadicHistogram(exponent, counts.reshape(2, BINS).numpy(), zeros, low + 0.0, high + 0.0)
