"""Weights as the model sees them, made of tensors as the checkpoint stores them, and read a few rows at a time.

A view has a shape and a floating type of its own. It is put together from stored tensors by a small algebra -
concatenated, stacked, sliced, transposed, reshaped - which moves rectangles about and reads nothing; these are the
operations by which transformers turns a checkpoint into parameters. To an ONNX graph a view is a tensor like any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from porting.errors import DtypeError, ShapeError, UsageError
from porting.weights.piece import Piece
from porting.weights.row_tensor import BLOCKS, RowTensor
from porting.weights.safetensors_file import Entry
from porting.weights.scales import FLOAT8, check_scale, find_scale
from porting.weights.store import WeightStore
from porting.weights.stored import CHUNK, WORK, Stored
from porting.weights.tiling import Tiling
from porting_kernels import dtypes

LOGICAL = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class WeightView(RowTensor):
    """A lazy tensor: shape, dtype, and the pieces that tile it.

    The constructor takes a tiling of the matrix that it is seen as; build views with ``of`` and the operations below.
    """

    __slots__ = ("_tiling",)

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, tiling: Tiling, name: str | None = None) -> None:
        super().__init__(shape, dtype, name)
        self._tiling = tiling

    # Construction

    @classmethod
    def of(
        cls,
        store: WeightStore,
        name: str,
        dtype: torch.dtype,
        *,
        scale: str | None = None,
        block: tuple[int, int] | None = None,
    ) -> WeightView:
        """A stored tensor, as ``dtype``.

        dtype: float32, bfloat16, float16 or float64 for floats and for anything that has a scale; the stored type
        itself for the rest. scale: name of the scale tensor; a float8 tensor finds its own (``scales.find_scale``).
        block: rows and columns under one scale, ``store.block`` by default; [1, columns] is a scale for each row.
        Raises InvalidModelError for a missing tensor, a missing scale, and a scale of a wrong shape or dtype;
        DtypeError for a dtype that the stored one is not read as.
        """
        entry = store.entry(name)
        block = block or store.block
        found = store.entry(scale) if scale is not None else None
        if entry.dtype in FLOAT8 and found is None:
            found = find_scale(store.entries, name)
        if found is not None or entry.dtype in FLOAT8:
            check_scale(entry, found, block)
        _check_dtype(entry, found is not None, dtype)
        return cls.over(Stored(store, entry, found, block), dtype)

    @classmethod
    def over(cls, stored: Stored, dtype: torch.dtype) -> WeightView:
        """All of a stored tensor, under its name."""
        entry = stored.entry
        piece = Piece(stored, range(entry.rows), range(entry.columns))
        tiling = Tiling(entry.rows, entry.columns, [piece] if entry.length else [])
        return cls(entry.shape, dtype, tiling, entry.name)

    # The algebra

    @staticmethod
    def concatenated(views: Sequence[WeightView], axis: int = 0) -> WeightView:
        """Views one after the other along an axis; their other axes and their dtypes agree."""
        dims, axis = _joined(views, axis)
        if axis == len(dims) - 1:
            height = math.prod(dims[:-1])
            tiling = Tiling.pile((view._tiling.turned() for view in views), height).turned()
        else:
            inner = math.prod(dims[axis + 1 : -1])
            heights = [view.dims[axis] * inner for view in views]
            parts = (
                view._tiling.take(range(outer * height, (outer + 1) * height))
                for outer in range(math.prod(dims[:axis]))
                for view, height in zip(views, heights, strict=True)
            )
            tiling = Tiling.pile(parts, dims[-1])
        return WeightView(dims, views[0]._torch_dtype, tiling)

    @staticmethod
    def stacked(views: Sequence[WeightView], axis: int = 0) -> WeightView:
        """Views of one shape along a new axis, which is not the last."""
        if not views:
            raise ShapeError("stacking of no views")
        rank = len(views[0].dims)
        axis = axis + rank + 1 if axis < 0 else axis
        if not 0 <= axis < rank:
            raise ShapeError("no such axis to stack along", required=f"0 to {rank - 1}", met=axis)
        grown = [view.reshaped((*view.dims[:axis], 1, *view.dims[axis:])) for view in views]
        return WeightView.concatenated(grown, axis)

    def sliced(self, axis: int, start: int = 0, stop: int | None = None, step: int = 1) -> WeightView:
        """Every ``step``-th place of an axis, from ``start`` to before ``stop``; the limits as in Python."""
        axis = self._axis(axis)
        if step < 1:
            raise ShapeError("slices go forward", required="a step of at least 1", met=step)
        kept = range(self.dims[axis])[start:stop:step]
        dims = (*self.dims[:axis], len(kept), *self.dims[axis + 1 :])
        if axis == len(dims) - 1:
            return WeightView(dims, self._torch_dtype, self._tiling.turned().take(kept).turned())
        inner = math.prod(dims[axis + 1 : -1])
        size = self.dims[axis] * inner
        runs = list(_rows_of(kept, inner))
        taken = self._tiling.take(
            *(
                range(outer * size + run.start, outer * size + run.stop, run.step)
                for outer in range(math.prod(dims[:axis]))
                for run in runs
            )
        )
        return WeightView(dims, self._torch_dtype, taken)

    def transposed(self) -> WeightView:
        """The last two axes swapped."""
        if len(self.dims) < 2:
            raise ShapeError("transposing needs two axes", required="at least 2", met=len(self.dims))
        *outer, height, width = self.dims
        matrices = (
            self._tiling.take(range(matrix * height, (matrix + 1) * height)).turned()
            for matrix in range(math.prod(outer))
        )
        return WeightView((*outer, width, height), self._torch_dtype, Tiling.pile(matrices, height))

    def reshaped(self, shape: Sequence[int]) -> WeightView:
        """Other leading axes over the same rows; the last axis stays as it is."""
        shape = tuple(shape)
        if not shape or shape[-1] != self.columns or math.prod(shape[:-1]) != self.rows:
            raise ShapeError(
                "reshaping keeps the rows and columns",
                required=f"{self.rows} rows of {self.columns}",
                met=list(shape),
                where=self,
            )
        return WeightView(shape, self._torch_dtype, self._tiling, self.name)

    def part(self, index: int) -> WeightView:
        """One place of the first axis, without that axis: an expert of a stack."""
        if len(self.dims) < 2:
            raise ShapeError("a view of one axis has no parts", required="at least 2 axes", met=len(self.dims))
        if not 0 <= index < self.dims[0]:
            raise IndexError(f"part {index} of {self.dims[0]}")
        return self.sliced(0, index, index + 1).reshaped(self.dims[1:])

    def as_dtype(self, dtype: torch.dtype) -> WeightView:
        """The same numbers, rounded from what is stored to another type (and not by way of this view's)."""
        for piece in self._tiling.pieces:
            _check_dtype(piece.stored.entry, piece.stored.scale is not None, dtype)
        return WeightView(self.dims, dtype, self._tiling, self.name)

    def over_others(self, other: Callable[[Stored], Stored]) -> WeightView:
        """The same rectangles of other stored tensors, each of the shape of the one that it takes the place of."""
        pieces = [dataclasses.replace(piece, stored=other(piece.stored)) for piece in self._tiling.pieces]
        return WeightView(self.dims, self._torch_dtype, Tiling(self.rows, self.columns, pieces), self.name)

    # Facts

    @property
    def rows(self) -> int:
        """All axes but the last, flattened."""
        return self._tiling.rows

    @property
    def columns(self) -> int:
        """The last axis; 1 for a scalar."""
        return self._tiling.columns

    @property
    def least_work(self) -> int:
        """Bytes in use, at least, while any of it is read, besides the result."""
        return WORK * max((piece.chunk_bytes for piece in self._tiling.pieces), default=0)

    @property
    def raw(self) -> tuple[Piece, ...]:
        """The pieces, from top to bottom."""
        return self._tiling.pieces

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The stored tensors behind it, scales included, each once, in the order of their first use."""
        found = {}
        for piece in self._tiling.pieces:
            for entry in (piece.stored.entry, piece.stored.scale):
                if entry is not None:
                    found[id(entry)] = entry
        return tuple(found.values())

    # Reading

    def read(
        self, first_row: int, last_row: int, *, out: torch.Tensor | None = None, chunk: int = CHUNK
    ) -> torch.Tensor:
        """Rows ``first_row`` to before ``last_row``: [last_row - first_row, columns] of the view's dtype.

        Only the bytes of these rows and of their scales are read (holes of less than 4 KiB between them too). out:
        where to put them, of that shape and dtype; fresh memory of 60 MB takes longer to get than its FP8 takes to read
        and convert. chunk: stored bytes in memory at a time, besides the result. Raises InvalidModelError for NaN in
        scales and for files that cannot be read any more.
        """
        if not 0 <= first_row <= last_row <= self.rows:
            raise IndexError(f"rows {first_row} to {last_row} of {self.rows}")
        shape = (last_row - first_row, self.columns)
        result = torch.empty(shape, dtype=self._torch_dtype) if out is None else out
        if result.shape != shape or result.dtype != self._torch_dtype:
            raise ShapeError("rows do not fit", required=f"{list(shape)} {self._torch_dtype}", met=dtypes.describe(out))
        self._tiling.read_into(first_row, result, chunk)
        return result

    def blocks(self, budget: int) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in blocks: the first row of each, and its tensor as from ``read``.

        budget: bytes for all that takes memory at once: a block, the one before it that the caller may still hold, the
        one before that which the allocator may not have given back, and the stored bytes with what converting them
        takes. A transposed view is read through its rows: blocks of fewer than 4 KiB of them read the holes as well.
        Raises UsageError when the budget is too small for one row.
        """
        if not self.rows or not self.columns:
            return
        row = self.columns * self._torch_dtype.itemsize
        least = self.least_work
        if budget < least + BLOCKS * row:
            raise UsageError(
                "the memory is too small for one row of a weight",
                required=f"at least {least + BLOCKS * row} bytes",
                met=budget,
                where=self,
            )
        work = max(least, min(budget // 4, WORK * CHUNK))
        step = (budget - work) // (BLOCKS * row)
        for first in range(0, self.rows, step):
            yield first, self.read(first, min(first + step, self.rows), chunk=work // WORK)

    def __repr__(self) -> str:
        return f"WeightView<{self.dtype.name},{list(self.dims)}>(name={self.name!r}, {len(self._tiling.pieces)} pieces)"

    def _axis(self, axis: int) -> int:
        rank = len(self.dims)
        if not -rank <= axis < rank:
            raise ShapeError("no such axis", required=f"{-rank} to {rank - 1}", met=axis, where=self)
        return axis % rank


def _check_dtype(entry: Entry, scaled: bool, dtype: torch.dtype) -> None:
    numeric = scaled or entry.torch_dtype in LOGICAL
    if dtype not in (LOGICAL if numeric else (entry.torch_dtype,)):
        allowed = ", ".join(str(each).removeprefix("torch.") for each in (LOGICAL if numeric else (entry.torch_dtype,)))
        raise DtypeError("a stored tensor cannot be read as this type", required=allowed, met=dtype, where=entry)


def _joined(views: Sequence[WeightView], axis: int) -> tuple[tuple[int, ...], int]:
    """Shape of the concatenation, and the axis counted from the front. ShapeError, DtypeError."""
    if not views:
        raise ShapeError("concatenation of no views")
    axis = views[0]._axis(axis)
    first = views[0].dims
    for view in views:
        if view.torch_dtype != views[0].torch_dtype:
            raise DtypeError("views of several types", required=views[0].torch_dtype, met=view.torch_dtype, where=view)
        if len(view.dims) != len(first) or view.dims[:axis] + view.dims[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ShapeError(
                f"views do not fit along axis {axis}", required=list(first), met=list(view.dims), where=view
            )
    return (*first[:axis], sum(view.dims[axis] for view in views), *first[axis + 1 :]), axis


def _rows_of(places: range, inner: int) -> Iterator[range]:
    """The rows of some places of an axis, with ``inner`` rows to a place, in as few runs as can be."""
    if inner == 1:
        yield places
    elif places.step == 1:
        yield range(places.start * inner, places.stop * inner)
    else:
        yield from (range(place * inner, (place + 1) * inner) for place in places)
