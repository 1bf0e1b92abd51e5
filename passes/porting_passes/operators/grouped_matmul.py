"""GroupedMatmul(x, w, offsets, bias; transposed) -> y: y[r] = x[r] @ w[e] + bias[e] for each row r of expert e.

x: float16, bfloat16 or float32 (M, K). w: of x's dtype, (E, K, N), or (E, N, K) where transposed is 1 (int attribute,
default 0). offsets: int64 (E,), the end of each expert's rows, the last one M. bias: of x's dtype, (E, N) or (E, 1);
zeros (E, 1) where there is none: a function body cannot leave out an operand. y: (M, N) of x's dtype.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int_attribute, parse
from porting_passes.operators.grouped_loop import loop_over_experts

NAME = "GroupedMatmul"
DOMAIN = "porting"
SINCE = 15
TYPES = "T T I T -> T"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX. M may be 0.

    One expert's weights at a time are copied and widened to float32, in which Gemm adds the products and the bias up.
    """
    before = f"""
        {int_attribute("transposed", "is_transposed")}
        w_shape = Shape (w)
        n_axis = Sub (two, is_transposed)
        n = Gather (w_shape, n_axis)"""
    part = """
            rows = Slice (x, start, end, zero)
            rows_wide = Cast <to = 1> (rows)
            weight = Gather (w, expert)
            weight_wide = Cast <to = 1> (weight)
            shift = Gather (bias, expert)
            shift_wide = Cast <to = 1> (shift)
            sum = Gemm <transB: int = @transposed> (rows_wide, weight_wide, shift_wide)
            part = CastLike (sum, x)"""
    return parse(
        f"""{NAME} <transposed: int = 0> (x, w, offsets, bias) => (y) {{
        {loop_over_experts(before, part, "CastLike (nothing, x)")}
        }}""",
        opset,
        DOMAIN,
    )
