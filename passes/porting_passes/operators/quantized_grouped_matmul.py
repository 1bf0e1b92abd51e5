"""QuantizedGroupedMatmul(a, a_scale, w, w_scale, offsets, bias; to, bits) -> y: int8 rows times the weights of experts.

a: int8 (M, K). a_scale: float32 (M,). w: int8 (E, N, K), output channels first. w_scale: float32 (E, N), or (E, N, G)
for groups of K / G neighbours along K. offsets: int64 (E,), the end of each expert's rows, the last one M. bias:
float32 (E, N) or (E, 1), zeros where there is none. to: int attribute, ONNX code of y's dtype, default 1. bits: int
attribute, 8 (default), or 4 where the codes of w lie in -8 to 7; it says how a chip stores them.
y: (M, N), (sum_g float32(a_g @ w_g') * w_scale) * a_scale + bias, rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse
from porting_passes.operators.grouped_loop import SCALES, loop_over_experts

NAME = "QuantizedGroupedMatmul"
DOMAIN = "porting"
SINCE = 15
TYPES = "I F I F I F -> A"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX, an expert at a time. M may be 0."""
    part = """
            codes = Slice (a, start, end, zero)
            codes_shape = Concat <axis = 0> (last, group_shape)
            codes_grouped = Reshape (codes, codes_shape)
            codes_turned = Transpose <perm = [1, 0, 2]> (codes_grouped)
            weight = Gather (w, expert)
            weight_grouped = Reshape (weight, codes_shape)
            weight_turned = Transpose <perm = [1, 2, 0]> (weight_grouped)
            acc = MatMulInteger (codes_turned, weight_turned)
            acc_float = Cast <to = 1> (acc)
            scale = Gather (scales, expert)
            scale_turned = Transpose <perm = [1, 0]> (scale)
            scale_row = Unsqueeze (scale_turned, one)
            scaled = Mul (acc_float, scale_row)
            by_channel = ReduceSum <keepdims = 0> (scaled, zero)
            row_scale = Slice (a_scale, start, end, zero)
            row_column = Unsqueeze (row_scale, one)
            by_row = Mul (by_channel, row_column)
            shift = Gather (bias, expert)
            sum = Add (by_row, shift)
            part = Cast <to: int = @to> (sum)"""
    before = f"""{SCALES}
        width = Div (k, groups)
        group_shape = Concat <axis = 0> (groups, width)"""
    return parse(
        f"""{NAME} <to: int = 1, bits: int = 8> (a, a_scale, w, w_scale, offsets, bias) => (y) {{
        {loop_over_experts(before, part, "Cast <to: int = @to> (nothing)")}
        }}""",
        opset,
        DOMAIN,
    )
