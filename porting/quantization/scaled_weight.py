"""A float weight whose input channels are multiplied by factors when it is read."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import torch

from porting.errors import DtypeError, ShapeError, UsageError
from porting.quantization.float_rows import FloatRows
from porting.weights.row_tensor import BLOCKS, RowTensor
from porting.weights.stored import CHUNK, WORK
from porting.weights.view import LOGICAL
from porting_kernels import dtypes


class ScaledWeight(RowTensor):
    """What stays in float beside quantized weights of a smoothed activation: a router, a projection.

    source: (..., N, K), or (..., K, N) with axis=-2, floating. factors: float32 (K,). The product is made in float32
    and rounded once to the dtype of the source; where the factors are powers of two it is exact. Raises ShapeError and
    DtypeError for what does not fit.
    """

    __slots__ = ("_axis", "_factors", "_first", "_rows", "_source")

    def __init__(self, source: ir.TensorProtocol, factors: torch.Tensor, *, axis: int = -1) -> None:
        dims = tuple(int(n) for n in source.shape.numpy())
        if axis not in (-1, -2) or len(dims) < 2 or factors.shape != (dims[axis],) or factors.dtype != torch.float32:
            raise ShapeError(
                "factors do not fit the input channels of a weight",
                required="float32 (K,), and K on axis -1 or -2",
                met=f"{dtypes.describe(factors)}, {list(dims)} on axis {axis}",
                where=source.name,
            )
        super().__init__(dims, dtypes.torch_dtype(source.dtype), source.name)
        self._source, self._factors, self._axis = source, factors, axis
        self._rows = FloatRows(source)
        self._first = 0

    def _copy(self, dims: tuple[int, ...], dtype: torch.dtype, first: int) -> ScaledWeight:
        made = ScaledWeight(self._source, self._factors, axis=self._axis)
        made.name, made.dims, made._torch_dtype, made._first = self.name, dims, dtype, first
        return made

    def read(self, first_row: int, last_row: int, *, chunk: int = CHUNK) -> torch.Tensor:
        """Rows, multiplied; as ``RowTensor.read``."""
        if not 0 <= first_row <= last_row <= self.rows:
            raise IndexError(f"rows {first_row} to {last_row} of {self.rows}")
        first, last = self._first + first_row, self._first + last_row
        values = torch.empty(last - first, self.columns)
        self._rows.reader()(first, last, values, chunk)
        if self._axis == -1:
            values.mul_(self._factors)
        else:
            values.mul_(self._factors[torch.arange(first, last) % len(self._factors), None])
        return values.to(self._torch_dtype)

    def blocks(self, budget: int) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in blocks, as ``RowTensor.blocks``."""
        if not self.size:
            return
        work = max(self._rows.least_work, min(budget // 4, WORK * CHUNK))
        row = self.columns * (4 + BLOCKS * self._torch_dtype.itemsize)
        if budget - work < row:
            raise UsageError(
                "the memory is too small for one row of a weight",
                required=f"at least {work + row} bytes",
                met=budget,
                where=self,
            )
        step = (budget - work) // row
        for first in range(0, self.rows, step):
            yield first, self.read(first, min(first + step, self.rows), chunk=max(1, work // WORK))

    def part(self, index: int) -> ScaledWeight:
        """One matrix of a stack."""
        if len(self.dims) < 3:
            raise ShapeError("a matrix has no parts that are weights", required="at least 3 axes", met=len(self.dims))
        if not 0 <= index < self.dims[0]:
            raise IndexError(f"part {index} of {self.dims[0]}")
        return self._copy(self.dims[1:], self._torch_dtype, self._first + index * (self.rows // self.dims[0]))

    def as_dtype(self, dtype: torch.dtype) -> ScaledWeight:
        """The same, rounded once to another floating type. DtypeError."""
        if dtype not in LOGICAL:
            raise DtypeError("a float weight", required=LOGICAL, met=dtype, where=self)
        return self._copy(self.dims, dtype, self._first)
