"""A tensor of a checkpoint as a matrix of numbers, whatever it is stored as."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from porting.weights.reader import PAGE, Reader
from porting.weights.safetensors_file import Entry
from porting.weights.scales import read_scales
from porting_kernels import native
from porting_kernels.weight_quantization import Findings, Search

CHUNK = 2 << 20
"""Stored bytes that are read and converted at a time."""

WORK = 32
"""Bytes in use, at most, for each stored byte of a chunk: a code; seven float32 for its value, scale and product."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Box:
    """Rows ``begin`` to before ``end`` of those that are asked for. corner: the first code, from where scales begin."""

    begin: int
    end: int
    stored: torch.Tensor
    scales: torch.Tensor | None = None
    block: tuple[int, int] = (1, 1)
    corner: tuple[int, int] = (0, 0)


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
        if self.scale is None and self._is_verbatim(rows, columns, out):
            self.store.read_into(self.entry, rows[0] * self.entry.columns * out.element_size(), out)
            return
        for box in self._boxes(rows, columns, chunk):
            part = out[box.begin : box.end]
            if box.scales is None:
                part.copy_(box.stored)
                continue
            first_row, first_column = box.corner
            nan = native.dequantize_blocks(
                box.stored, box.scales, part, block=box.block, first_row=first_row, first_column=first_column
            )
            self.store.count_nan(self.entry, nan)

    def quantize_into(
        self,
        rows: range,
        codes: torch.Tensor,
        *,
        bits: int,
        group: int | None,
        search: Search,
        divisor: float | None = None,
    ) -> tuple[torch.Tensor, Findings]:
        """codes[:] = integer codes of whole rows. Returns their scales, float32 [len(rows), groups], and what was met.

        codes: int8 [len(rows), columns], contiguous. What ``native.quantize_rows`` makes of the float32 numbers of
        ``read_into``; those of float8 never come to memory.
        """
        scales, findings = [], Findings()
        for box in self._boxes(rows, range(self.entry.columns), CHUNK):
            part = codes[box.begin : box.end]
            if box.scales is None:
                w = box.stored.to(torch.float32)
                _, scale, found = native.quantize_rows(
                    w, bits=bits, group=group, search=search, divisor=divisor, codes=part
                )
            else:
                _, scale, found, nan = native.requantize_blocks(
                    box.stored, box.scales, bits=bits, group=group, search=search, divisor=divisor, block=box.block,
                    first_row=box.corner[0], codes=part,
                )  # fmt: skip
                self.store.count_nan(self.entry, nan)
            scales.append(scale)
            findings += found
        return torch.cat(scales), findings

    def _boxes(self, rows: range, columns: range, chunk: int) -> Iterator[_Box]:
        """What is stored, in its order, some rows at a time."""
        if self.scale is None:
            for begin, end in self._chunks(rows, columns, chunk):
                yield _Box(begin, end, self.store.read_box(self.entry, rows[begin:end], columns))
            return
        for begin, end in self._matrices(rows):
            yield from self._scaled_boxes(rows[begin:end], begin, columns, chunk)

    def _scaled_boxes(self, rows: range, at: int, columns: range, chunk: int) -> Iterator[_Box]:
        """The same of rows of one matrix that has scales. at: where the first of them is among all."""
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
                yield _Box(at + begin, at + end, codes, scales, self.block, (first, left))
            else:
                down = (first + torch.arange(len(part)) * rows.step) // height
                across = (left + torch.arange(len(columns)) * columns.step) // width
                yield _Box(at + begin, at + end, codes, scales[down][:, across])

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
