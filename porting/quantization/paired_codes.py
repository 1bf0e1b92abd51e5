"""int4 codes two a byte, packed while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from porting.errors import DtypeError, ShapeError, UsageError
from porting.weights.row_tensor import BLOCKS, RowTensor
from porting_kernels import int4

if TYPE_CHECKING:
    from porting.quantization.quantized_weight import QuantizedTensor


class PairedCodes(RowTensor):
    """Codes (..., N, K) as bytes: numbers 2 i (low nibble) and 2 i + 1 along an axis.

    axis: -2 for output channels, (..., N / 2, K); -1 for inputs, (..., N, K / 2). ShapeError for an odd extent.
    """

    __slots__ = ("_axis", "_codes")

    def __init__(self, codes: QuantizedTensor, axis: int = -2) -> None:
        dims = list(codes.dims)
        if dims[axis] % 2:
            raise ShapeError("codes do not go into bytes of two", required="an even extent", met=dims[axis])
        dims[axis] //= 2
        name = None if codes.name is None else f"{codes.name}/paired"
        super().__init__(dims, torch.int8, name)
        self._codes = codes
        self._axis = axis

    def read(self, first_row: int, last_row: int) -> torch.Tensor:
        """Rows of bytes; reads twice as many codes."""
        span = 2 if self._axis == -2 else 1
        codes = self._codes.read(span * first_row, span * last_row)
        return torch.from_numpy(int4.pack_pairs(codes.numpy(), axis=self._axis))

    def blocks(self, budget: int) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in blocks, in one pass over the codes: a quarter of the budget is codes, the rest makes them."""
        step = budget // (4 * BLOCKS) // (4 * self.columns) if self.size else 1
        if not step:
            raise UsageError("the memory is too small for one row", required=48 * self.columns, met=budget, where=self)
        for first in range(0, self.rows if self.size else 0, step):
            yield first, self.read(first, min(first + step, self.rows))

    def part(self, index: int) -> PairedCodes:
        """One expert."""
        return PairedCodes(self._codes.part(index), self._axis)

    def as_dtype(self, dtype: torch.dtype) -> PairedCodes:
        """Itself: bytes have no other type. DtypeError for one."""
        if dtype != torch.int8:
            raise DtypeError("bytes of codes have a type of their own", required="int8", met=dtype, where=self)
        return PairedCodes(self._codes, self._axis)
