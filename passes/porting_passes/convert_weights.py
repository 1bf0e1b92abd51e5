"""float32 weights as float16 or bfloat16: what fits, and the conversion, block by block."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from porting_passes.stored import is_stored

_BLOCK = 1 << 22
_EAGER = 1 << 20
_FLOAT32_MAX = np.float32(np.finfo(np.float32).max)
_NUMPY = {ir.DataType.FLOAT16: np.dtype(np.float16), ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}


def largest_finite(dtype: ir.DataType) -> float:
    """The largest finite number of float16 or bfloat16."""
    return float(ml_dtypes.finfo(_NUMPY[dtype]).max)


def overflowing(tensor: ir.TensorProtocol, dtype: ir.DataType) -> float | None:
    """The largest finite magnitude of a float32 tensor if rounding it to ``dtype`` gives infinity, else None.

    The float32 extremes do not count: exporters write them for "minus infinity", and they stay the extremes.
    A stored tensor is not read here.
    """
    if is_stored(tensor):
        return None
    largest = 0.0
    flat = tensor.numpy().reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        magnitudes = np.abs(flat[start : start + _BLOCK])
        counted = magnitudes[np.isfinite(magnitudes) & (magnitudes < _FLOAT32_MAX)]
        largest = max(largest, float(counted.max(initial=0.0)))
    with np.errstate(over="ignore"):
        return largest if np.isinf(np.float32(largest).astype(_NUMPY[dtype]).astype(np.float32)) else None


def narrowed(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str) -> ir.TensorProtocol:
    """A float32 tensor in ``dtype``, rounded to nearest even; a large one is converted anew each time it is read."""
    if is_stored(tensor):
        return tensor.converted(dtype, name)

    def convert() -> ir.TensorProtocol:
        array = tensor.numpy()
        limit = np.float32(largest_finite(dtype))
        flat, out = array.reshape(-1), np.empty(array.size, _NUMPY[dtype])
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            extreme = np.abs(block) == _FLOAT32_MAX
            out[start : start + _BLOCK] = np.where(extreme, np.copysign(limit, block), block).astype(_NUMPY[dtype])
        return ir.Tensor(out.reshape(array.shape), dtype=dtype, name=name)

    if tensor.nbytes <= _EAGER:
        return convert()
    return ir.LazyTensor(convert, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name, cache=False)
