"""Samples in order, in parallel, with the same bits for any number of threads.

torch's own matrix product is not bit-equal between one and two intra-op threads, so every sample is computed with
one, whatever ``threads`` is, and results come back in the order of the samples.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx_ir as ir
import torch

from porting.errors import InvalidInputError
from porting_kernels import dtypes

Sample = Mapping[str, Any]
"""One array (numpy or torch) for each graph input, by name."""

_T = TypeVar("_T")


class SampleSet(Protocol):
    """Samples that can be counted, and iterated any number of times in the same order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]: ...


def in_order(function: Callable[[Sample], _T], samples: Iterable[Sample], threads: int = 1) -> Iterator[_T]:
    """``function`` of each sample, in order. At most ``threads`` samples are alive at a time."""
    if threads < 1:
        raise InvalidInputError("the number of threads is not positive", required=">= 1", met=threads)
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "parity", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: collections.deque[Future[_T]] = collections.deque()
            stream = iter(samples)
            try:
                for sample in itertools.islice(stream, threads):
                    waiting.append(pool.submit(function, sample))
                while waiting:
                    result = waiting.popleft().result()
                    for sample in itertools.islice(stream, 1):
                        waiting.append(pool.submit(function, sample))
                    yield result
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        torch.set_num_threads(before)


def fit(model: ir.Model, sample: Sample) -> dict[str, torch.Tensor]:
    """The sample as the model's inputs, cast to their dtypes: a float16 port of a float32 source takes float16.

    Inputs with a default may be missing. Raises InvalidInputError for any other that the sample lacks.
    """
    fitted = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if name not in sample:
            if value.is_initializer():
                continue
            raise InvalidInputError(
                f"no data for graph input {name!r}", required=name, met=", ".join(sorted(sample)) or "no arrays"
            )
        data = sample[name]
        tensor = data if isinstance(data, torch.Tensor) else dtypes.to_torch(np.asarray(data))
        wanted = tensor.dtype if value.dtype is None else dtypes.torch_dtype(value.dtype)
        fitted[name] = tensor.to(wanted)
    return fitted


def saturated(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor cast to ``dtype``; finite floats beyond its range become its largest, infinities stay."""
    if tensor.dtype == dtype or not (tensor.is_floating_point() and dtype.is_floating_point):
        return tensor.to(dtype)
    limits = torch.finfo(dtype)
    clamped = tensor.clamp(limits.min, limits.max)
    return torch.where(tensor.isinf(), tensor, clamped).to(dtype)
