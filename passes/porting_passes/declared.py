"""Weights of which only dtype and shape are known: enough to fuse, check and count a model without downloading it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes.stored import StoredView

LookUp = Callable[[str], StoredView]


class UnboundWeightError(PortingError):
    """The contents of a weight are asked for before the model has any."""


class DeclaredTensor:
    """A weight without contents, which passes transpose and join like a stored one.

    ``bound(look_up)`` makes the real one in the same way out of those of the names that the model came with.
    """

    def __init__(
        self,
        dtype: ir.DataType,
        dims: Sequence[int],
        make: Callable[[LookUp], StoredView],
        name: str | None = None,
    ) -> None:
        self.name = name
        self.doc_string: str | None = None
        self.metadata_props: dict[str, str] = {}
        self.meta: dict[str, Any] = {}
        self._dtype, self._dims, self._make = dtype, tuple(dims), make

    @property
    def dtype(self) -> ir.DataType:
        """As declared, or as converted since."""
        return self._dtype

    @property
    def shape(self) -> ir.Shape:
        """Constant."""
        return ir.Shape(self._dims)

    @property
    def raw(self) -> None:
        """Nothing lies behind it."""
        return None

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self._dims)

    @property
    def nbytes(self) -> int:
        """Bytes that the contents would take."""
        return math.ceil(self.size * self._dtype.itemsize)

    def bound(self, look_up: LookUp) -> StoredView:
        """The weight itself. look_up(name): the stored tensor of a name that the model came with."""
        return self._make(look_up)

    def converted(self, dtype: ir.DataType, name: str) -> DeclaredTensor:
        """The same in another floating type."""
        return DeclaredTensor(dtype, self._dims, lambda look_up: self._make(look_up).converted(dtype, name), name)

    def transposed(self) -> DeclaredTensor:
        """The last two axes swapped."""
        *outer, height, width = self._dims
        return DeclaredTensor(self._dtype, (*outer, width, height), lambda look_up: self._make(look_up).transposed())

    def reshaped(self, shape: Sequence[int]) -> DeclaredTensor:
        """Other leading axes over the same rows; the last axis stays."""
        return DeclaredTensor(self._dtype, shape, lambda look_up: self._make(look_up).reshaped(shape))

    @staticmethod
    def concatenated(views: Sequence[DeclaredTensor], axis: int = 0) -> DeclaredTensor:
        """One after the other along an axis."""
        dims = list(views[0]._dims)
        dims[axis] = sum(view._dims[axis] for view in views)

        def make(look_up: LookUp) -> StoredView:
            parts = [view._make(look_up) for view in views]
            return parts[0].concatenated(parts, axis)

        return DeclaredTensor(views[0]._dtype, dims, make)

    def numpy(self) -> np.ndarray:
        """Raise UnboundWeightError: there is nothing to read."""
        raise UnboundWeightError(
            f"the weight {self.name} has no contents",
            required="a checkpoint that holds it",
            met=f"{self._dtype.name.lower()}{list(self._dims)}, known by shape only",
            fix="give the folder with the weights, not the config alone",
        )

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.numpy()

    def __dlpack__(self, *, stream: object = None) -> object:
        return self.numpy()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def tobytes(self) -> bytes:
        """Raise UnboundWeightError."""
        return self.numpy().tobytes()


def declare_weights(model: ir.Model) -> None:
    """Give every initializer of known dtype and shape that has no tensor a declared one, of its own name."""
    for name, value in model.graph.initializers.items():
        if value.const_value is None and value.dtype is not None and value.shape is not None:
            declared: Any = DeclaredTensor(value.dtype, value.shape.numpy(), _named(name), name)
            value.const_value = declared


def _named(name: str) -> Callable[[LookUp], StoredView]:
    return lambda look_up: look_up(name)


def bind_declared(model: ir.Model, look_up: LookUp) -> None:
    """Put real weights in the place of all declared ones; shapes and dtypes stay."""
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, DeclaredTensor):
            value.const_value = value.const_value.bound(look_up)
            value.const_value.name = name
