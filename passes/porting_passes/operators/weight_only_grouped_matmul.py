"""WeightOnlyGroupedMatmul(x, w, w_scale, offsets, bias; bits) -> y: float rows times the integer weights of experts.

x: float16, bfloat16 or float32 (M, K). w: int8 (E, N, K), output channels first. w_scale: float32 (E, N), or (E, N, G)
for groups of K / G neighbours along K. offsets: int64 (E,), the end of each expert's rows, the last one M. bias:
float32 (E, N) or (E, 1), zeros where there is none. bits: int attribute, 8 (default), or 4 where the codes lie in -8 to
7. y: (M, N) of x's dtype, x @ (w * w_scale)' + bias; float32 inside, rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse
from porting_passes.operators.grouped_loop import SCALES, loop_over_experts

NAME = "WeightOnlyGroupedMatmul"
DOMAIN = "porting"
SINCE = 15
TYPES = "T I F I F -> T"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX, an expert at a time. M may be 0."""
    part = """
            rows = Slice (x, start, end, zero)
            rows_wide = Cast <to = 1> (rows)
            weight = Gather (w, expert)
            weight_float = Cast <to = 1> (weight)
            weight_grouped = Reshape (weight_float, grouped_shape)
            scale = Gather (scales, expert)
            scale_column = Unsqueeze (scale, two)
            weight_scaled = Mul (weight_grouped, scale_column)
            weight_flat = Reshape (weight_scaled, flat_shape)
            shift = Gather (bias, expert)
            sum = Gemm <transB = 1> (rows_wide, weight_flat, shift)
            part = CastLike (sum, x)"""
    before = f"""{SCALES}
        flat_shape = Concat <axis = 0> (n, k)
        grouped_shape = Concat <axis = 0> (n, groups, last)"""
    return parse(
        f"""{NAME} <bits: int = 8> (x, w, w_scale, offsets, bias) => (y) {{
        {loop_over_experts(before, part, "CastLike (nothing, x)")}
        }}""",
        opset,
        DOMAIN,
    )
