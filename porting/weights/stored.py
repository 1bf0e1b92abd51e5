"""A tensor of a checkpoint as a matrix of numbers, whatever it is stored as."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from porting.weights.reader import PAGE, Reader
from porting.weights.safetensors_file import Entry
from porting.weights.scales import read_scales
from porting_kernels import native

CHUNK = 2 << 20
"""Stored bytes that are read and converted at a time."""

WORK = 32
"""Bytes in use, at most, for each stored byte of a chunk: a code; seven float32 for its value, scale and product."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An entry seen as a matrix [entry.rows, entry.columns], with the scales of its own blocks where it has them.

    An entry of three axes or more is a pile of matrices; the blocks begin anew with each.
    """

    store: Reader
    entry: Entry
    scale: Entry | None = None
    block: tuple[int, int] = (1, 1)

    def row_bytes(self, columns: range, step: int = 1) -> int:
        """Bytes read for each row, with the holes that are read over."""
        width, pitch = columns[-1] + 1 - columns[0], self.entry.columns * step
        itemsize = self.entry.torch_dtype.itemsize
        return width * itemsize + min((pitch - width) * itemsize, PAGE)

    def read_into(self, rows: range, columns: range, out: torch.Tensor, chunk: int = CHUNK) -> None:
        """out[:] = the numbers in these rows and columns, rounded once to the dtype of ``out``, half to even.

        rows, columns: ascending, not empty. out: [len(rows), len(columns)], any strides. chunk: stored bytes in memory
        at a time, at least one row's. Quantized values are multiplied by their scale in float32. Stored float64 becomes
        a 16-bit type by way of float32, as torch does it: two roundings.
        """
        if self.scale is not None:
            for begin, end in self._matrices(rows):
                self._dequantize(rows[begin:end], columns, out[begin:end], chunk)
        elif self._is_verbatim(rows, columns, out):
            self.store.read_into(self.entry, rows[0] * self.entry.columns * out.element_size(), out)
        else:
            for begin, end in self._chunks(rows, columns, chunk):
                out[begin:end].copy_(self.store.read_box(self.entry, rows[begin:end], columns))

    def _dequantize(self, rows: range, columns: range, out: torch.Tensor, chunk: int) -> None:
        """The same for rows of one matrix."""
        assert self.scale is not None
        height, width = self.block
        matrix = rows[0] // self._height
        top = matrix * self._height
        block_rows = range((rows[0] - top) // height, (rows[-1] - top) // height + 1)
        block_columns = range(columns[0] // width, columns[-1] // width + 1)
        above = matrix * -(-self._height // height)
        # Once for all chunks: they are few, and a block that two chunks share is not read twice.
        scales = read_scales(self.store, self.scale, _shifted(block_rows, above), block_columns)
        left = columns[0] - block_columns[0] * width
        for begin, end in self._chunks(rows, columns, chunk):
            part = rows[begin:end]
            codes = self.store.read_box(self.entry, part, columns)
            first = part[0] - top - block_rows[0] * height
            if rows.step == columns.step == 1:
                grid, block, corner = scales, self.block, (first, left)
            else:
                down = (first + torch.arange(len(part)) * rows.step) // height
                across = (left + torch.arange(len(columns)) * columns.step) // width
                grid, block, corner = scales[down][:, across], (1, 1), (0, 0)
            nan = native.dequantize_blocks(
                codes, grid, out[begin:end], block=block, first_row=corner[0], first_column=corner[1]
            )
            self.store.count_nan(self.entry, nan)

    @property
    def _height(self) -> int:
        return self.entry.shape[-2] if len(self.entry.shape) > 1 else 1

    def _matrices(self, rows: range) -> Iterator[tuple[int, int]]:
        """Positions in ``rows`` between which they lie in one matrix."""
        begin = 0
        while begin < len(rows):
            edge = (rows[begin] // self._height + 1) * self._height
            end = min(len(rows), begin - (rows[begin] - edge) // rows.step)
            yield begin, end
            begin = end

    def _chunks(self, rows: range, columns: range, chunk: int) -> Iterator[tuple[int, int]]:
        step = max(1, chunk // self.row_bytes(columns, rows.step))
        return ((begin, min(begin + step, len(rows))) for begin in range(0, len(rows), step))

    def _is_verbatim(self, rows: range, columns: range, out: torch.Tensor) -> bool:
        whole = len(columns) == self.entry.columns and rows.step == 1
        return whole and out.dtype == self.entry.torch_dtype and out.is_contiguous()


def _shifted(rows: range, by: int) -> range:
    return range(rows.start + by, rows.stop + by)
