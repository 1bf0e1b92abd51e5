"""Composite operators: name, domain and meaning in standard ONNX, one a file, with the stem of its kernel.

A module has ``NAME``, ``DOMAIN``, ``SINCE``, ``TYPES`` and ``body(opset)``: a function of that name and domain whose
nodes are valid at ``opset`` of the default domain, SINCE or newer, so that a model which uses the operator runs
wherever ONNX runs. TYPES has a letter for each input and, behind an arrow, each output: T, one floating type for all of
them; F, float32; I, an integer type; A, the type that an attribute names.
"""

from __future__ import annotations

import itertools
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

FLAT: dict[tuple[str, str], Callable[[int], ir.Function]] = {
    (module.DOMAIN, module.NAME): module.flat_body for module in (swiglu, gating_top_k)
}
"""(domain, name) -> the same meaning without control flow, where a body saves memory by blocks."""

SINCE: dict[tuple[str, str], int] = {(module.DOMAIN, module.NAME): module.SINCE for module in _MODULES}
"""(domain, name) -> the oldest opset at which standard ONNX can say what the operator means."""

TYPES: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    (module.DOMAIN, module.NAME): tuple(side.split() for side in module.TYPES.split("->")) for module in _MODULES
}
"""(domain, name) -> the letters of its inputs and of its outputs."""


_CHECKS: dict[tuple[str, str], Callable[[ir.Node], None]] = {
    (mla_attention.DOMAIN, mla_attention.NAME): mla_attention.check
}
"""(domain, name) -> what refuses operands that the operator names and the body does not have yet."""


def add_bodies(model: ir.Model) -> None:
    """Give every composite operator that the model or a function of it uses a function body, and import its domain.

    Bodies are written for the model's own opset: onnxruntime refuses an inlined operator of another version. Raises
    PortingError when that is older than an operator's body can be, UnsupportedOperatorError for reserved operands.
    """
    opset = model.opset_imports[""]
    used: set[tuple[str, str]] = set()
    for node in itertools.chain(model.graph.all_nodes(), *(f.all_nodes() for f in model.functions.values())):
        key = node.domain, node.op_type
        if key in BODIES:
            used.add(key)
        if key in _CHECKS:
            _CHECKS[key](node)
    for domain, name in sorted(used):
        if opset < SINCE[domain, name]:
            raise PortingError(
                f"standard ONNX cannot say {domain}.{name}", required=f"opset {SINCE[domain, name]}", met=opset
            )
        function = BODIES[domain, name](opset)
        model.functions[function.identifier()] = function
        model.opset_imports.setdefault(domain, 1)
