"""Composite operators: name, domain and meaning in standard ONNX, one a file, with the stem of its kernel.

A module has ``NAME``, ``DOMAIN``, ``SINCE``, ``TYPES`` and ``body(opset)``: a function of that name and domain whose
nodes are valid at ``opset`` of the default domain, SINCE or newer, so that a model which uses the operator runs
wherever ONNX runs. TYPES has a letter for each input and, behind an arrow, each output: T, one floating type for all of
them; F, float32; I, an integer type; A, the type that an attribute names.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes.operators import (
    add_rms_norm,
    dequantize,
    dynamic_quantize,
    gating_top_k,
    grouped_matmul,
    integer_conv,
    integer_matmul,
    mla_attention,
    moe_combine,
    moe_dispatch,
    quantize,
    quantized_grouped_matmul,
    quantized_matmul,
    rms_norm,
    rotary_embedding,
    swiglu,
    weight_only_grouped_matmul,
    weight_only_matmul,
)

_MODULES = (
    quantize,
    integer_conv,
    integer_matmul,
    dequantize,
    rms_norm,
    add_rms_norm,
    swiglu,
    gating_top_k,
    moe_dispatch,
    grouped_matmul,
    moe_combine,
    rotary_embedding,
    mla_attention,
    dynamic_quantize,
    quantized_matmul,
    quantized_grouped_matmul,
    weight_only_matmul,
    weight_only_grouped_matmul,
)

BODIES: dict[tuple[str, str], Callable[[int], ir.Function]] = {
    (module.DOMAIN, module.NAME): module.body for module in _MODULES
}
"""(domain, name) -> body of every composite operator."""

SINCE: dict[tuple[str, str], int] = {(module.DOMAIN, module.NAME): module.SINCE for module in _MODULES}
"""(domain, name) -> the oldest opset at which standard ONNX can say what the operator means."""

TYPES: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    (module.DOMAIN, module.NAME): tuple(side.split() for side in module.TYPES.split("->")) for module in _MODULES
}
"""(domain, name) -> the letters of its inputs and of its outputs."""


def add_bodies(model: ir.Model) -> None:
    """Give every composite operator that the model uses a function body, and import its domain.

    Bodies are written for the model's own opset: onnxruntime refuses an inlined operator of another version. Raises
    PortingError when that is older than an operator's body can be.
    """
    opset = model.opset_imports[""]
    used = {(n.domain, n.op_type) for n in model.graph.all_nodes()} & set(BODIES)
    for domain, name in sorted(used):
        if opset < SINCE[domain, name]:
            raise PortingError(
                f"standard ONNX cannot say {domain}.{name}", required=f"opset {SINCE[domain, name]}", met=opset
            )
        function = BODIES[domain, name](opset)
        model.functions[function.identifier()] = function
        model.opset_imports.setdefault(domain, 1)
