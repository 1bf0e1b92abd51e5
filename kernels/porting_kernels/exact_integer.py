"""Exact integer contractions on float hardware paths.

Float convolutions and matrix products are many times faster on a CPU than integer ones, and exact as long as every
partial sum is an integer that the format holds: below 2**24 in float32, below 2**53 in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_FLOAT32_INTEGERS = 2**24


def contraction_dtype(x: torch.Tensor, w: torch.Tensor, *, contracted: Sequence[int] | None = None) -> torch.dtype:
    """The cheapest float dtype in which contracting integers x with w is exact.

    No partial sum, in any order, exceeds max|x| * max over outputs of sum|w|. ``contracted``: the axes of w that are
    summed over; by default all but the first, as in a convolution weight.
    """
    if x.numel() == 0 or w.numel() == 0:
        return torch.float32
    magnitudes = (w.to(torch.int16) if w.dtype == torch.int8 else w).abs()  # -128 has no magnitude in int8
    axes = tuple(range(1, w.ndim)) if contracted is None else tuple(contracted)
    sums = magnitudes.sum(dim=axes, dtype=torch.int64) if axes else magnitudes
    low, high = (int(v) for v in torch.aminmax(x))
    bound = max(abs(low), abs(high)) * int(sums.max())
    return torch.float32 if bound < _FLOAT32_INTEGERS else torch.float64


def exact_in_float32(w: torch.Tensor, largest: int) -> bool:
    """True if float32 sums exactly what w (M, ...) int8 gives with any integers of at most ``largest`` in magnitude."""
    return int(w.to(torch.int32).abs().flatten(1).sum(dim=1).max()) * largest < _FLOAT32_INTEGERS


def to_int32(accumulator: torch.Tensor) -> torch.Tensor:
    """An integral float accumulator as int32; sums beyond int32 wrap, as a 32-bit accumulator does."""
    if accumulator.dtype == torch.float64:
        return accumulator.round_().to(torch.int64).to(torch.int32)
    return accumulator.round_().to(torch.int32)


def int8_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b in int32; sums beyond int32 wrap. a: int8 (M, K). b: int8 (K, N), in either order of memory.

    torch's own int8 product is faster than a float32 one, but for K = 1, where torch 2.13 gives wrong numbers.
    """
    k = a.shape[1]
    if not (a.numel() and b.numel()):
        return torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32)
    if k == 1:
        return a.to(torch.int32) * b.to(torch.int32)
    return torch._int_mm(a if a.is_contiguous() else a.contiguous(), b)
