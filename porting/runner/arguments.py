"""What the conversions in a row's call do to an argument; ``porting_passes.call_text`` is the language."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from porting_kernels import dtypes
from porting_passes.call_text import CONVERSIONS as NAMES


def copied(x: torch.Tensor) -> torch.Tensor:
    """A copy in memory order, for a function that writes into its argument."""
    return x.clone(memory_format=torch.contiguous_format)


def dense(x: torch.Tensor) -> torch.Tensor:
    """A copy in memory order, unless it is in that order."""
    return x.contiguous()


def dtype(code: int) -> torch.dtype:
    """The torch dtype of an ONNX code."""
    return dtypes.torch_dtype(code)


def dtype_of(x: torch.Tensor) -> torch.dtype:
    """The dtype of a tensor."""
    return x.dtype


def flag(number: int) -> bool:
    """A number as yes or no."""
    return bool(number)


def float32_words(scale: torch.Tensor) -> torch.Tensor:
    """float32 (E, N) -> int64 (E, 1, N), the bits of each number in the low half of a word, 0 above them."""
    return (scale.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF).unsqueeze(1)


def groups_first(scale: torch.Tensor) -> torch.Tensor:
    """(experts, channels, groups) -> (groups, experts, channels), in memory order."""
    return scale.permute(2, 0, 1).contiguous()


def heads(x: torch.Tensor) -> int:
    """The second extent of (batch, heads, rows, width)."""
    return x.shape[1]


def int32_words(packed: torch.Tensor) -> torch.Tensor:
    """int8 (..., 4 N) -> int32 (..., N): four bytes, low ones first, seen as one word."""
    return packed.contiguous().view(torch.int32)


def numel(x: torch.Tensor) -> int:
    """How many elements there are."""
    return x.numel()


def rows(x: torch.Tensor) -> int:
    """The first extent."""
    return x.shape[0]


def tokens(x: torch.Tensor) -> int:
    """The second extent of (batch, tokens, heads, width)."""
    return x.shape[1]


def transposed(x: torch.Tensor) -> torch.Tensor:
    """A view with the last two axes swapped."""
    return x.transpose(-2, -1)


def zeros_like(x: torch.Tensor) -> torch.Tensor:
    """Zeros of its shape and dtype."""
    return torch.zeros_like(x)


@functools.lru_cache(maxsize=4)
def _upper_triangle(size: int, device: torch.device) -> torch.Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).triu(1)


def causal_mask(query: torch.Tensor) -> torch.Tensor:
    """bool (2048, 2048) on the query's device, True where a key lies in the future: a compressed causal mask."""
    return _upper_triangle(2048, query.device)


CONVERSIONS: dict[str, Callable[[Any], Any]] = {name: globals()[name] for name in NAMES}
"""Name in a call -> what it does."""
