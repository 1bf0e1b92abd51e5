"""Weights of a checkpoint during a run: read when a step asks, kept while the memory lasts."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable

import torch

from porting.weights.row_tensor import RowTensor

_ALL = -1


class WeightCache:
    """Tensors that were read, the least recently used dropped first. budget: bytes of them, None for no limit.

    What is larger than the budget is handed out and not kept. Safe to use from several threads.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._budget = budget
        self._kept: collections.OrderedDict[Hashable, torch.Tensor] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor of ``key``, from memory or by ``read``."""
        with self._lock:
            tensor = self._kept.get(key)
            if tensor is not None:
                self._kept.move_to_end(key)
                return tensor
        tensor = read()
        with self._lock:
            if key not in self._kept and (self._budget is None or tensor.nbytes <= self._budget):
                self._kept[key] = tensor
                self._bytes += tensor.nbytes
                while self._budget is not None and self._bytes > self._budget:
                    _, dropped = self._kept.popitem(last=False)
                    self._bytes -= dropped.nbytes
        return tensor


class CachedWeight:
    """A tensor that is made by rows, as kernels take it (``porting_kernels.streamed.StreamedWeight``).

    dtype: of the tensors it gives.
    """

    def __init__(self, view: RowTensor, cache: WeightCache, dtype: torch.dtype) -> None:
        self._view = view if view.torch_dtype == dtype else view.as_dtype(dtype)
        self._cache = cache
        self.shape = self._view.dims
        self.dtype = dtype

    def __getitem__(self, index: int, /) -> torch.Tensor:
        """One place of the first axis."""
        return self._cache.get((id(self), index), lambda: self._view.part(index).tensor())

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Places of the first axis, read anew each time: an embedding is rarely asked for the same ones."""
        if not len(indices):
            return torch.empty(0, *self.shape[1:], dtype=self.dtype)
        if len(self.shape) < 2:
            return self.tensor()[indices]
        return torch.stack([self._view.part(i).tensor() for i in indices.tolist()])

    def tensor(self) -> torch.Tensor:
        """All of it."""
        return self._cache.get((id(self), _ALL), self._view.tensor)
