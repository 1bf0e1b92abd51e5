"""Weights that kernels read in parts: a stack of experts one expert at a time, an embedding row by row."""

from __future__ import annotations

from typing import Protocol

import torch


class StreamedWeight(Protocol):
    """A weight that is read when a kernel asks for it. ``isinstance(x, torch.Tensor)`` tells it from one in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the tensor that it stands for."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors that it gives."""
        ...

    def __getitem__(self, index: int, /) -> torch.Tensor:
        """One place of the first axis, without that axis."""
        ...

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Places of the first axis: (len(indices), *shape[1:]) for int64 indices from 0 on, in their order."""
        ...

    def tensor(self) -> torch.Tensor:
        """All of it."""
        ...
