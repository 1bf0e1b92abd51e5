"""Tensors that stay where they are stored: passes see their dtype and shape, never their contents.

A checkpoint's weights are such tensors, and so are the codes and scales that are made of them. No pass reads one,
however small, so importing and rewriting a model of any size reads the headers of its files and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard

import onnx_ir as ir


class StoredTensor(ir.TensorProtocol, Protocol):
    """A tensor of ONNX whose ``numpy()`` reads files."""

    def converted(self, dtype: ir.DataType, name: str) -> StoredTensor:
        """The same numbers in another floating type, rounded once from what is stored. Reads nothing."""
        ...


class StoredView(StoredTensor, Protocol):
    """One that shows its file in another order."""

    def converted(self, dtype: ir.DataType, name: str) -> StoredView:
        """As of any stored tensor."""
        ...

    def transposed(self) -> StoredView:
        """The last two axes swapped. Reads nothing."""
        ...

    def reshaped(self, shape: Sequence[int]) -> StoredView:
        """Other leading axes over the same rows; the last axis stays as it is. Reads nothing."""
        ...

    @staticmethod
    def concatenated(views: Sequence[Any], axis: int = 0) -> StoredView:
        """Tensors of this kind, of one dtype, one after the other along an axis. Reads nothing."""
        ...


def is_stored(tensor: ir.TensorProtocol | None) -> TypeGuard[StoredTensor]:
    """Whether the contents of a tensor are left alone until the model runs or is written."""
    return hasattr(tensor, "converted")


def is_view(tensor: ir.TensorProtocol | None) -> TypeGuard[StoredView]:
    """Whether it is stored, and can be shown transposed and joined with others of its kind."""
    return is_stored(tensor) and hasattr(tensor, "transposed")


class StoredCodes(StoredTensor, Protocol):
    """The codes of a quantized weight."""

    def paired(self, axis: int = -2) -> StoredTensor:
        """int4 codes two a byte, the even one in the low nibble. Reads nothing.

        axis: -2 for neighbouring output channels, -1 for neighbours within a row.
        """
        ...

    def correction(self) -> StoredTensor:
        """float32, 8 * sum(code * scale) of each output channel. Reads nothing."""
        ...


def is_codes(tensor: ir.TensorProtocol | None) -> TypeGuard[StoredCodes]:
    """Whether it is stored, and made of a weight while it is read."""
    return is_stored(tensor) and hasattr(tensor, "paired")
