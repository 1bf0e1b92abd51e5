"""A tensor of ONNX whose contents are made when they are read, a few rows at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch

from porting_kernels import dtypes

if TYPE_CHECKING:
    from typing_extensions import Self

BLOCKS = 3
"""Blocks that take memory at once: the one that is made, the one before it that the caller may still hold, and the one
before that which the allocator may not have given back."""

STREAM = 256 << 20
"""Bytes of working memory with which a whole tensor is written to a file."""


class RowTensor(ABC):
    """Shape, dtype and name of a lazy tensor, and all ways to read it that follow from reading rows.

    Seen as a matrix it has ``rows`` (all axes but the last, flattened) and ``columns`` (the last axis). Implements
    ``onnx_ir.TensorProtocol`` and ``porting_passes.stored.StoredTensor``.
    """

    __slots__ = ("_torch_dtype", "dims", "doc_string", "meta", "metadata_props", "name")

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, name: str | None = None) -> None:
        self.name = name
        self.doc_string: str | None = None
        self.metadata_props: dict[str, str] = {}
        self.meta: dict[str, Any] = {}
        self.dims = tuple(shape)
        self._torch_dtype = dtype

    # What a kind of tensor brings

    @abstractmethod
    def read(self, first_row: int, last_row: int) -> torch.Tensor:
        """Rows ``first_row`` to before ``last_row``: [last_row - first_row, columns]. IndexError for others."""

    @abstractmethod
    def blocks(self, budget: int) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in blocks: the first row of each, and its tensor as from ``read``.

        budget: bytes for all that takes memory at once. UsageError when it is too small for one row.
        """

    @abstractmethod
    def part(self, index: int) -> Self:
        """One place of the first axis, without that axis: an expert of a stack."""

    @abstractmethod
    def as_dtype(self, dtype: torch.dtype) -> Self:
        """The same numbers in another type, rounded once from what they are made of. DtypeError."""

    def converted(self, dtype: ir.DataType, name: str) -> Self:
        """``as_dtype`` in ONNX's words, under another name."""
        tensor = self.as_dtype(dtypes.torch_dtype(dtype))
        tensor.name = name
        return tensor

    # Facts

    @property
    def raw(self) -> Any:
        """What it is made of; nothing that can be shown by default."""
        return None

    @property
    def rows(self) -> int:
        """All axes but the last, flattened."""
        return math.prod(self.dims[:-1])

    @property
    def columns(self) -> int:
        """The last axis; 1 for a scalar."""
        return self.dims[-1] if self.dims else 1

    @property
    def torch_dtype(self) -> torch.dtype:
        """What the model sees."""
        return self._torch_dtype

    @property
    def dtype(self) -> ir.DataType:
        """What the model sees, in ONNX's words."""
        return ir.DataType(dtypes.by_torch(self._torch_dtype).code)

    @property
    def shape(self) -> ir.Shape:
        """Constant."""
        return ir.Shape(self.dims)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes in the tensor's dtype."""
        return self.size * self._torch_dtype.itemsize

    # Reading

    def tensor(self) -> torch.Tensor:
        """All of it, in its shape."""
        return self.read(0, self.rows).reshape(self.dims)

    def numpy(self) -> np.ndarray:
        """All of it, as ONNX tensors are read: ml_dtypes where numpy lacks the type."""
        return dtypes.to_numpy(self.tensor())

    def tobytes(self) -> bytes:
        """All of it, little-endian, row by row."""
        return self.tensor().view(-1).view(torch.uint8).numpy().tobytes()

    def tofile(self, file: IO[bytes]) -> None:
        """Write what ``tobytes`` gives, without ever holding all of it."""
        for _, values in self.blocks(STREAM):
            file.write(values.view(-1).view(torch.uint8).numpy().data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.tensor().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[Any, int]:
        return torch.empty(0).__dlpack_device__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}<{self.dtype.name},{list(self.dims)}>(name={self.name!r})"
