"""Constants in the form that a surface stores, made of the composite operator's when they are read.

A node of domain ``stored`` in the text of a lowering names one of them. Nothing is read when the text is expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_kernels import int4
from porting_kernels.errors import PortingError
from porting_passes.builder import BuildError
from porting_passes.inference import constant_tensor
from porting_passes.stored import is_codes

STORED_DOMAIN = "stored"

Form = Callable[[Sequence[ir.TensorProtocol]], ir.TensorProtocol]


def stored_form(name: str, operands: Sequence[ir.Value | None]) -> ir.TensorProtocol:
    """The stored form ``name`` of constants. BuildError for an operand that only a run brings."""
    if name not in FORMS:
        raise PortingError("unknown stored form", required=" | ".join(sorted(FORMS)), met=name)
    tensors = [constant_tensor(value) for value in operands]
    known = [tensor for tensor in tensors if tensor is not None]
    if len(known) != len(tensors):
        raise BuildError(f"{name} is made of weights, and an operand is computed when the model runs")
    return FORMS[name](known)


def _lazy(make: Callable[[], np.ndarray[Any, Any]], dtype: ir.DataType, dims: Sequence[int]) -> ir.LazyTensor:
    return ir.LazyTensor(lambda: ir.Tensor(make(), dtype=dtype), dtype=dtype, shape=ir.Shape(dims), cache=False)


def _int4_pairs(operands: Sequence[ir.TensorProtocol]) -> ir.TensorProtocol:
    """Codes (E, N, K) -> bytes (E, N / 2, K), two channels each."""
    (codes,) = operands
    experts, channels, width = codes.shape.numpy()
    if channels % 2:
        raise BuildError(f"{channels} channels do not go into bytes of two")
    if is_codes(codes):
        return codes.paired()
    return _lazy(lambda: int4.pack_pairs(codes.numpy(), axis=1), ir.DataType.INT8, (experts, channels // 2, width))


def _int4_input_pairs(operands: Sequence[ir.TensorProtocol]) -> ir.TensorProtocol:
    """Codes (..., K) -> bytes (..., K / 2), two neighbours of a row each."""
    (codes,) = operands
    *lead, width = codes.shape.numpy()
    if width % 2:
        raise BuildError(f"rows of {width} codes do not go into bytes of two")
    if is_codes(codes):
        return codes.paired(-1)
    return _lazy(lambda: int4.pack_pairs(codes.numpy(), axis=-1), ir.DataType.INT8, (*lead, width // 2))


def _int4_bias(operands: Sequence[ir.TensorProtocol]) -> ir.TensorProtocol:
    """Codes (E, N, K) and scales (E, N) -> float32 (E, N), 8 * sum_k(code * scale)."""
    codes, scale = operands
    if is_codes(codes):
        return codes.correction()
    dims = codes.shape.numpy()[:2]
    return _lazy(lambda: int4.unsigned_correction(codes.numpy(), scale.numpy()), ir.DataType.FLOAT, dims)


FORMS: dict[str, Form] = {
    "int4_bias": _int4_bias,
    "int4_input_pairs": _int4_input_pairs,
    "int4_pairs": _int4_pairs,
}
"""Name in a lowering -> the stored form of its operands."""
