"""A rectangle of a weight view, and the rectangle of a stored tensor that fills it.

Pieces are cut, moved and turned; nothing is read. What they say about rows they say about columns: ``turned`` swaps
the two, so that each operation is written once.
"""

from __future__ import annotations

import dataclasses

import torch

from porting.weights.stored import CHUNK, Stored


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """row, column: where it begins in the view. rows, columns: what it shows of ``stored``, in its order, any step.

    transposed: the rows of the view are the columns of ``stored``.
    """

    stored: Stored
    rows: range
    columns: range
    row: int = 0
    column: int = 0
    transposed: bool = False

    @property
    def height(self) -> int:
        """Rows of the view that it fills."""
        return len(self.columns if self.transposed else self.rows)

    @property
    def width(self) -> int:
        """Columns of the view that it fills."""
        return len(self.rows if self.transposed else self.columns)

    @property
    def chunk_bytes(self) -> int:
        """Stored bytes that are in memory at once, at least, while any of it is read."""
        return self.stored.row_bytes(self.columns, self.rows.step)

    def moved(self, rows: int) -> Piece:
        """The same further down."""
        return self._at(self.row + rows) if rows else self

    def turned(self) -> Piece:
        """Mirrored at the diagonal of the view."""
        return Piece(self.stored, self.rows, self.columns, self.column, self.row, not self.transposed)

    def cut(self, rows: range) -> Piece | None:
        """What it shows of these rows of the view, which become rows 0, 1, 2 ...; None when it shows none of them."""
        # The first of them at or below the piece, and the first past its end, counted in rows.
        begin = max(0, -((rows.start - self.row) // rows.step))
        end = min(len(rows), max(0, -((rows.start - self.row - self.height) // rows.step)))
        if begin >= end:
            return None
        if end - begin == self.height:
            return self._at(begin)
        first = rows[begin] - self.row
        shown = slice(first, rows[end - 1] - self.row + 1, rows.step)
        if self.transposed:
            return Piece(self.stored, self.rows, self.columns[shown], begin, self.column, True)
        return Piece(self.stored, self.rows[shown], self.columns, begin, self.column)

    def _at(self, row: int) -> Piece:
        # dataclasses.replace takes four times as long, and a large checkpoint is bound by 150,000 of these.
        return Piece(self.stored, self.rows, self.columns, row, self.column, self.transposed)

    def read_into(self, view: torch.Tensor, chunk: int = CHUNK) -> None:
        """Fill its part of ``view``, the matrix it is placed in."""
        out = view[self.row : self.row + self.height, self.column : self.column + self.width]
        self.stored.read_into(self.rows, self.columns, out.T if self.transposed else out, chunk)
