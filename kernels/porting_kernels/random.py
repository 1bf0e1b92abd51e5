"""RandomNormal, RandomUniform, their Like forms, Bernoulli and Multinomial.

A node with a seed gives the same values in every run; the values are torch's, no other runtime has the same. Without
one it draws from torch's default generator, which ``torch.manual_seed`` sets.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch

from porting_kernels.dtypes import promoted, torch_dtype
from porting_kernels.precision import widen
from porting_kernels.registry import Context, kernel


def _generator(seed: float | None) -> torch.Generator | None:
    if seed is None:
        return None
    # The bits of the float32 attribute: 1.0 and 1.5 are different seeds. torch's generator takes 32 bits.
    return torch.Generator().manual_seed(struct.unpack("<I", struct.pack("<f", seed))[0])


def _normal(shape: Sequence[int], dtype: torch.dtype, mean: float, scale: float, seed: float | None) -> torch.Tensor:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(tuple(shape), dtype=wide, generator=_generator(seed)).mul_(scale).add_(mean).to(dtype)


def _uniform(shape: Sequence[int], dtype: torch.dtype, low: float, high: float, seed: float | None) -> torch.Tensor:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.rand(tuple(shape), dtype=wide, generator=_generator(seed)).mul_(high - low).add_(low).to(dtype)


def _dtype(code: int | None, default: torch.dtype, context: Context) -> torch.dtype:
    dtype = torch_dtype(code) if code else default
    return promoted(dtype) if context.numerics.float64 else dtype


@kernel("RandomNormal")
def random_normal(
    *,
    shape: Sequence[int],
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    context: Context,
) -> torch.Tensor:
    """Values of a normal distribution; ``scale`` is its standard deviation."""
    return _normal(shape, _dtype(dtype, torch.float32, context), mean, scale, seed)


@kernel("RandomNormalLike")
def random_normal_like(
    x: torch.Tensor,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    context: Context,
) -> torch.Tensor:
    """RandomNormal in the shape of x, and its dtype unless one is given."""
    return _normal(x.shape, _dtype(dtype, x.dtype, context), mean, scale, seed)


@kernel("RandomUniform")
def random_uniform(
    *,
    shape: Sequence[int],
    dtype: int = 1,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    context: Context,
) -> torch.Tensor:
    """Values between low and high."""
    return _uniform(shape, _dtype(dtype, torch.float32, context), low, high, seed)


@kernel("RandomUniformLike")
def random_uniform_like(
    x: torch.Tensor,
    *,
    dtype: int | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
    context: Context,
) -> torch.Tensor:
    """RandomUniform in the shape of x, and its dtype unless one is given."""
    return _uniform(x.shape, _dtype(dtype, x.dtype, context), low, high, seed)


@kernel("Bernoulli", since=15)
def bernoulli(
    x: torch.Tensor, *, dtype: int | None = None, seed: float | None = None, context: Context
) -> torch.Tensor:
    """1 with probability x, else 0."""
    drawn = torch.rand(tuple(x.shape), dtype=widen(x).dtype, generator=_generator(seed)) < widen(x)
    return drawn.to(_dtype(dtype, x.dtype, context))


@kernel("Multinomial", since=7)
def multinomial(x: torch.Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> torch.Tensor:
    """sample_size class numbers a row of unnormalized log-probabilities x (N, C), drawn with replacement."""
    probabilities = torch.softmax(widen(x), 1)
    drawn = torch.multinomial(probabilities, sample_size, replacement=True, generator=_generator(seed))
    return drawn.to(torch_dtype(dtype))
