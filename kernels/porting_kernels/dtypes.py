"""ONNX element types, and the torch and numpy types that carry them.

torch has no arithmetic storage for elements below one byte, so these are carried one element a byte: int2 and int4 in
int8, uint2 and uint4 in uint8, float4e2m1 in float8_e4m3fn (which holds each of its values exactly). Where the
element type matters (a cast, the written file) the ONNX code travels beside the tensor.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import torch

from porting_kernels.errors import DtypeError


@dataclasses.dataclass(frozen=True)
class Dtype:
    """One ONNX element type.

    code, name: as in ``onnx.TensorProto.DataType``. bits: of one stored element. torch: the type that computes with
    it, ``carried`` when that type is wider than the element. numpy: the type that ONNX files are read as.
    """

    code: int
    name: str
    bits: int
    torch: torch.dtype
    numpy: np.dtype
    carried: bool = False

    @property
    def is_float(self) -> bool:
        """True for real floating-point types, the 4- and 8-bit ones included."""
        return self.torch.is_floating_point


def _row(code: int, name: str, bits: int, torch_dtype: torch.dtype, numpy_dtype: type, carried: bool = False) -> Dtype:
    return Dtype(code, name, bits, torch_dtype, np.dtype(numpy_dtype), carried)


_TABLE = (
    _row(1, "FLOAT", 32, torch.float32, np.float32),
    _row(2, "UINT8", 8, torch.uint8, np.uint8),
    _row(3, "INT8", 8, torch.int8, np.int8),
    _row(4, "UINT16", 16, torch.uint16, np.uint16),
    _row(5, "INT16", 16, torch.int16, np.int16),
    _row(6, "INT32", 32, torch.int32, np.int32),
    _row(7, "INT64", 64, torch.int64, np.int64),
    _row(9, "BOOL", 8, torch.bool, np.bool_),
    _row(10, "FLOAT16", 16, torch.float16, np.float16),
    _row(11, "DOUBLE", 64, torch.float64, np.float64),
    _row(12, "UINT32", 32, torch.uint32, np.uint32),
    _row(13, "UINT64", 64, torch.uint64, np.uint64),
    _row(14, "COMPLEX64", 64, torch.complex64, np.complex64),
    _row(15, "COMPLEX128", 128, torch.complex128, np.complex128),
    _row(16, "BFLOAT16", 16, torch.bfloat16, ml_dtypes.bfloat16),
    _row(17, "FLOAT8E4M3FN", 8, torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    _row(18, "FLOAT8E4M3FNUZ", 8, torch.float8_e4m3fnuz, ml_dtypes.float8_e4m3fnuz),
    _row(19, "FLOAT8E5M2", 8, torch.float8_e5m2, ml_dtypes.float8_e5m2),
    _row(20, "FLOAT8E5M2FNUZ", 8, torch.float8_e5m2fnuz, ml_dtypes.float8_e5m2fnuz),
    _row(21, "UINT4", 4, torch.uint8, ml_dtypes.uint4, carried=True),
    _row(22, "INT4", 4, torch.int8, ml_dtypes.int4, carried=True),
    _row(23, "FLOAT4E2M1", 4, torch.float8_e4m3fn, ml_dtypes.float4_e2m1fn, carried=True),
    _row(24, "FLOAT8E8M0", 8, torch.float8_e8m0fnu, ml_dtypes.float8_e8m0fnu),
    _row(25, "UINT2", 2, torch.uint8, ml_dtypes.uint2, carried=True),
    _row(26, "INT2", 2, torch.int8, ml_dtypes.int2, carried=True),
)
_BY_CODE = {row.code: row for row in _TABLE}
_BY_TORCH = {row.torch: row for row in reversed(_TABLE) if not row.carried}
_BY_NUMPY = {row.numpy: row for row in _TABLE}

# numpy integer type of the same width, through which torch and numpy exchange the bits of types that one lacks.
_BITS_NUMPY: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.int16)}
_BITS_TORCH = {8: torch.uint8, 16: torch.int16}


def by_code(code: int) -> Dtype:
    """The row of an ONNX element type code. Raises DtypeError for one that is not computed (strings)."""
    found = _BY_CODE.get(int(code))
    if found is None:
        raise DtypeError(
            f"ONNX element type {int(code)} cannot be computed",
            required="one of " + ", ".join(f"{row.code} ({row.name})" for row in _TABLE),
            met=int(code),
        )
    return found


def by_torch(dtype: torch.dtype) -> Dtype:
    """The row whose own torch type this is. Raises DtypeError for a torch type without an ONNX element type."""
    found = _BY_TORCH.get(dtype)
    if found is None:
        raise DtypeError(f"torch type {dtype} has no ONNX element type", met=dtype)
    return found


def by_numpy(dtype: np.dtype) -> Dtype:
    """The row of a numpy or ml_dtypes type. Raises DtypeError for a type without an ONNX element type."""
    found = _BY_NUMPY.get(np.dtype(dtype).newbyteorder("="))
    if found is None:
        raise DtypeError(f"numpy type {dtype} has no ONNX element type that can be computed", met=dtype)
    return found


def torch_dtype(code: int) -> torch.dtype:
    """The torch type that computes with an ONNX element type."""
    return by_code(code).torch


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A torch tensor with the values of a numpy (or ml_dtypes) array, sharing its memory where torch has the type.

    The tensor of a read-only array must not be written to. Raises DtypeError for strings and other objects.
    """
    array = np.asarray(array)
    row = by_numpy(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if row.carried:
        if row.is_float:
            return torch.from_numpy(array.astype(np.float32)).to(row.torch)
        return torch.from_numpy(array.astype(np.int8 if row.torch is torch.int8 else np.uint8))
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    foreign = row.numpy.kind == "V" or row.numpy.type.__module__ != "numpy"
    if foreign:
        array = array.view(_BITS_NUMPY[row.bits])
    if array.flags.writeable:
        tensor = torch.from_numpy(array)
    else:
        with warnings.catch_warnings():
            # Mapped weight files are read-only; kernels never write to their operands.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            tensor = torch.from_numpy(array)
    return tensor.view(row.torch) if foreign else tensor


def to_numpy(tensor: torch.Tensor, code: int | None = None) -> np.ndarray:
    """The values of a tensor as a numpy (or ml_dtypes) array, sharing memory where numpy has the type.

    code: the ONNX element type the tensor carries, needed only for elements below one byte.
    """
    row = by_torch(tensor.dtype) if code is None else by_code(code)
    tensor = tensor.detach().resolve_conj()
    if row.carried:
        wide = tensor.to(torch.float32) if tensor.dtype.is_floating_point else tensor
        return wide.numpy().astype(row.numpy)
    row = by_torch(tensor.dtype)
    if row.numpy.type.__module__ != "numpy":
        return tensor.view(_BITS_TORCH[row.bits]).numpy().view(row.numpy)
    return tensor.numpy()


def promoted(dtype: torch.dtype) -> torch.dtype:
    """The type that holds a value in float64 mode: float64 for every real floating type, else the type itself."""
    return torch.float64 if dtype.is_floating_point else dtype


def describe(value: object) -> str:
    """Shape and dtype of an operand for messages: ``float32[2,3]``, ``sequence(2)``, ``absent``."""
    if value is None:
        return "absent"
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')}[{','.join(map(str, value.shape))}]"
    if isinstance(value, list | tuple):
        return f"sequence({len(value)})"
    return type(value).__name__
