"""The rows of a weight in float32, whatever it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import onnx_ir as ir
import torch

from porting.errors import DtypeError, ShapeError
from porting.weights.reader import PAGE
from porting.weights.row_tensor import RowTensor
from porting.weights.stored import CHUNK
from porting.weights.view import WeightView
from porting_kernels import dtypes

Read = Callable[[int, int, torch.Tensor, int], None]
"""(first row, last row, out float32 [rows, columns], bytes of a chunk)"""


class FloatRows:
    """Rows of a tensor (..., K) as float32, each column multiplied by its factor.

    A view of a checkpoint is read from what is stored, not by way of its own dtype. factors: float32 (K,). Raises
    DtypeError for a tensor that is not floating, ShapeError for factors that do not fit.
    """

    def __init__(self, tensor: ir.TensorProtocol, factors: torch.Tensor | None = None) -> None:
        self.columns = int(tensor.shape.numpy()[-1])
        if not dtypes.torch_dtype(tensor.dtype).is_floating_point:
            raise DtypeError("only floating weights are quantized", met=tensor.dtype.name, where=tensor.name)
        if factors is not None and (factors.dtype != torch.float32 or factors.shape != (self.columns,)):
            raise ShapeError(
                "factors do not fit the columns of a weight",
                required=f"float32[{self.columns}]",
                met=dtypes.describe(factors),
                where=tensor.name,
            )
        self._tensor = tensor.as_dtype(torch.float32) if isinstance(tensor, WeightView) else tensor
        self._factors = factors

    @property
    def least_work(self) -> int:
        """Bytes that reading takes at least, besides the result."""
        return self._tensor.least_work if isinstance(self._tensor, WeightView) else 0

    def worthwhile(self, numbers: int) -> int:
        """Numbers to read at a time where there is memory: ``numbers``, or more.

        Columns of a stored tensor that lie closer than a page are read with what is between them, over and over, unless
        as many are read as fill the page.
        """
        view = self._tensor
        turned = isinstance(view, WeightView) and any(piece.transposed for piece in view.raw)
        return max(numbers, PAGE * self.columns) if turned else numbers

    def step(self, numbers: int) -> int:
        """Rows that make about so many numbers, at least one."""
        return max(1, numbers // max(1, self.columns))

    def blocks(self, numbers: int) -> Iterator[torch.Tensor]:
        """All rows in blocks of about so many numbers, or as many as are worthwhile, each over the last."""
        step, read = self.step(self.worthwhile(numbers)), self.reader()
        rows = math.prod(int(n) for n in self._tensor.shape.numpy()[:-1])
        out = torch.empty(min(step, rows), self.columns)
        for first in range(0, rows, step):
            block = out[: min(step, rows - first)]
            read(first, first + len(block), block, CHUNK)
            yield block

    def reader(self) -> Read:
        """What reads rows. An ordinary tensor is asked for its contents here, once, and may be let go afterwards."""
        tensor, factors = self._tensor, self._factors
        if isinstance(tensor, WeightView):

            def read(first: int, last: int, out: torch.Tensor, chunk: int) -> None:
                tensor.read(first, last, out=out, chunk=chunk)
        elif isinstance(tensor, RowTensor):

            def read(first: int, last: int, out: torch.Tensor, chunk: int) -> None:
                out.copy_(tensor.read(first, last))
        else:
            contents = dtypes.to_torch(tensor.numpy()).reshape(-1, self.columns)

            def read(first: int, last: int, out: torch.Tensor, chunk: int) -> None:
                out.copy_(contents[first:last])

        if factors is None:
            return read

        def multiplied(first: int, last: int, out: torch.Tensor, chunk: int) -> None:
            read(first, last, out, chunk)
            out.mul_(factors)

        return multiplied
