"""Weights that a port has written, in place: what ONNX's external data refers to, as views over the file."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import onnx_ir as ir

from porting.weights.reader import Reader
from porting.weights.safetensors_file import DTYPES, DataFile, Entry
from porting.weights.stored import Stored
from porting.weights.view import WeightView
from porting_kernels import dtypes

LEAST = 1 << 20
"""Bytes of a weight that is worth leaving in its file."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def leave_in_file(model: ir.Model) -> None:
    """Replace large external weights of a model by views, which are read with ``pread`` and never mapped.

    Floating ones, and the int8 codes of quantized ones.
    """
    reader = Reader()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes >= LEAST:
                value.const_value = cast(ir.TensorProtocol, _view(tensor, reader) or tensor)


def _view(tensor: ir.ExternalTensor, reader: Reader) -> WeightView | None:
    """None for a type that views do not have."""
    if tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.INT8):
        return None
    dtype = dtypes.torch_dtype(tensor.dtype)
    shape = tuple(int(n) for n in tensor.shape.numpy())
    path = Path(tensor.path)
    file = DataFile(path, path.stat().st_size)
    entry = Entry(tensor.name or "", file, _NAMES[dtype], shape, tensor.offset or 0, tensor.nbytes)
    return WeightView.over(Stored(reader, entry), dtype)
