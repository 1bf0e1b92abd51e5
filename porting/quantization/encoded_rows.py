"""The rows of a weight as integer codes: quantized from floats, or as somebody has stored them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from porting.quantization.float_rows import FloatRows
from porting.quantization.weight_spec import WeightSpec
from porting_kernels import native
from porting_kernels.weight_quantization import Findings

Encode = Callable[[int, int, torch.Tensor, int], tuple[torch.Tensor, Findings]]
"""(first row, last row, codes int8 [rows, columns] to fill, bytes of a chunk) -> scales float32 [rows, groups], and
what was met."""


class EncodedRows(Protocol):
    """Where codes and scales come from."""

    @property
    def least_work(self) -> int:
        """Bytes that reading takes at least, besides the result."""

    def worthwhile(self, numbers: int) -> int:
        """Numbers to make at a time where there is memory: ``numbers``, or more."""

    def encoder(self, rows: int) -> Encode:
        """What makes rows, at most ``rows`` at a time; not for several threads at once."""


class QuantizedRows:
    """Float rows, quantized as they are read."""

    def __init__(self, floats: FloatRows, spec: WeightSpec) -> None:
        self._floats = floats
        self._spec = spec

    @property
    def least_work(self) -> int:
        """Of the floats."""
        return self._floats.least_work

    def worthwhile(self, numbers: int) -> int:
        """Of the floats."""
        return self._floats.worthwhile(numbers)

    def encoder(self, rows: int) -> Encode:
        """``native.quantize_rows`` of each."""
        spec, read = self._spec, self._floats.reader()
        values = torch.empty(rows, self._floats.columns)

        def encode(first: int, last: int, codes: torch.Tensor, chunk: int) -> tuple[torch.Tensor, Findings]:
            part = values[: last - first]
            read(first, last, part, chunk)
            _, scale, findings = native.quantize_rows(
                part, bits=spec.bits, group=spec.group, search=spec.search, divisor=spec.divisor, codes=codes
            )
            return scale, findings

        return encode
