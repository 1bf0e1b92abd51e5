"""Constants in the form that a surface stores, made of the composite operator's when they are read.

A node of domain ``stored`` in the text of a lowering names one of them. Nothing is read when the text is expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes.builder import BuildError
from porting_passes.inference import constant_tensor

STORED_DOMAIN = "stored"

Form = Callable[[Sequence[ir.TensorProtocol]], ir.TensorProtocol]

FORMS: dict[str, Form] = {}
"""Name in a lowering -> the stored form of its operands."""


def stored_form(name: str, operands: Sequence[ir.Value | None]) -> ir.TensorProtocol:
    """The stored form ``name`` of constants. BuildError for an operand that only a run brings."""
    if name not in FORMS:
        raise PortingError("unknown stored form", required=" | ".join(sorted(FORMS)), met=name)
    tensors = [constant_tensor(value) for value in operands]
    known = [tensor for tensor in tensors if tensor is not None]
    if len(known) != len(tensors):
        raise BuildError(f"{name} is made of weights, and an operand is computed when the model runs")
    return FORMS[name](known)
