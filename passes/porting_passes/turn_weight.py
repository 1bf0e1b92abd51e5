"""The last two axes of a weight swapped, without reading it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porting_passes.stored import is_view


def turned(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """A stored tensor shows its file the other way round, an ordinary one is turned when somebody asks for it."""
    if is_view(tensor):
        other: ir.TensorProtocol = tensor.transposed()
        other.name = name
        return other
    *outer, rows, columns = (int(n) for n in tensor.shape.numpy())
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(np.swapaxes(tensor.numpy(), -1, -2)), dtype=tensor.dtype),
        dtype=tensor.dtype,
        shape=ir.Shape([*outer, columns, rows]),
        name=name,
    )
