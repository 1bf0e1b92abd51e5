"""Weights one after the other along an axis, without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import constant_of
from porting_passes.stored import is_stored, is_view


def joinable(weights: Sequence[ir.Value | None]) -> bool:
    """Whether all are weights of one kind that can be joined, one dtype and known shape."""
    tensors = [constant_of(weight) for weight in weights]
    if any(tensor is None or (is_stored(tensor) and not is_view(tensor)) for tensor in tensors):
        return False
    kinds = {type(tensor) if is_stored(tensor) else None for tensor in tensors}
    return len(kinds) == 1 and len({tensor.dtype for tensor in tensors if tensor is not None}) == 1


def joined(weights: Sequence[ir.Value], axis: int) -> ir.TensorProtocol:
    """Stored tensors as a stored one; ordinary ones are put together when somebody asks for the contents."""
    tensors: list[Any] = [constant_of(weight) for weight in weights]
    if is_view(tensors[0]):
        return tensors[0].concatenated(tensors, axis)
    dims = list(tensors[0].shape.numpy())
    dims[axis] = sum(tensor.shape.numpy()[axis] for tensor in tensors)
    dtype = tensors[0].dtype
    return ir.LazyTensor(
        lambda: ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors], axis), dtype=dtype),
        dtype=dtype,
        shape=ir.Shape(dims),
    )
