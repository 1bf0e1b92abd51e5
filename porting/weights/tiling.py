"""A matrix made of pieces, and the three operations from which all others follow: take rows, pile up, turn."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator

import torch

from porting.weights.piece import Piece


class Tiling:
    """Pieces that tile a matrix [rows, columns] without gap or overlap, from top to bottom."""

    __slots__ = ("_tallest", "columns", "pieces", "rows")

    def __init__(self, rows: int, columns: int, pieces: Iterable[Piece]) -> None:
        self.rows = rows
        self.columns = columns
        self.pieces = tuple(sorted(pieces, key=lambda piece: (piece.row, piece.column)))
        self._tallest = max((piece.height for piece in self.pieces), default=0)

    def take(self, *runs: range) -> Tiling:
        """These rows, run after run; a run is ascending."""
        pieces: list[Piece] = []
        row = 0
        for run in runs:
            pieces += (piece.moved(row) for piece in self._cut(run))
            row += len(run)
        return Tiling(row, self.columns, pieces)

    @staticmethod
    def pile(tilings: Iterable[Tiling], columns: int) -> Tiling:
        """One above the other, the first on top; all of them are ``columns`` wide."""
        pieces: list[Piece] = []
        row = 0
        for tiling in tilings:
            pieces += (piece.moved(row) for piece in tiling.pieces)
            row += tiling.rows
        return Tiling(row, columns, pieces)

    def turned(self) -> Tiling:
        """Mirrored at the diagonal. To take or to pile columns, turn, do so with rows, and turn back."""
        return Tiling(self.columns, self.rows, (piece.turned() for piece in self.pieces))

    def read_into(self, first_row: int, out: torch.Tensor, chunk: int) -> None:
        """Fill ``out`` [r, columns] with the rows from ``first_row`` on."""
        for piece in self._cut(range(first_row, first_row + out.shape[0])):
            piece.read_into(out, chunk)

    def _cut(self, rows: range) -> Iterator[Piece]:
        """The pieces that show these rows, cut to them."""
        if not rows:
            return
        begin = bisect.bisect_left(self.pieces, rows[0] - self._tallest + 1, key=lambda piece: piece.row)
        for number in range(begin, len(self.pieces)):
            if self.pieces[number].row > rows[-1]:
                break
            if piece := self.pieces[number].cut(rows):
                yield piece
