"""GroupedMatmul(x, w, offsets, bias; transposed) -> y: y[r] = x[r] @ w[e] + bias[e] for each row r of expert e.

x: float16, bfloat16 or float32 (M, K). w: of x's dtype, (E, K, N), or (E, N, K) where transposed is 1 (int attribute,
default 0). offsets: int64 (E,), the end of each expert's rows, the last one M. bias: of x's dtype, (E, N) or (E, 1);
zeros (E, 1) where there is none: a function body cannot leave out an operand. y: (M, N) of x's dtype.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int_attribute, parse

NAME = "GroupedMatmul"
DOMAIN = "porting"
SINCE = 15


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX. M may be 0.

    A Loop over the experts that have rows: one expert's weights at a time are copied and widened to float32, in which
    Gemm adds the products and the bias up. The sequence holds float32, since none may hold bfloat16, and starts with an
    empty tensor, so that it is never empty.
    """
    return parse(
        f"""{NAME} <transposed: int = 0> (x, w, offsets, bias) => (y) {{
        {int_attribute("transposed", "is_transposed")}
        zero = Constant <value = int64[1] {{0}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        two = Constant <value = int64[1] {{2}}> ()
        before_last = Slice (offsets, zero, last)
        starts = Concat <axis = 0> (zero, before_last)
        counts = Sub (offsets, starts)
        hit_row = NonZero (counts)
        hit = Squeeze (hit_row, zero)
        trips = Size (hit)
        w_shape = Shape (w)
        n_axis = Sub (two, is_transposed)
        n = Gather (w_shape, n_axis)
        empty_shape = Concat <axis = 0> (zero, n)
        empty = ConstantOfShape (empty_shape)
        parts_before = SequenceConstruct (empty)
        always = Constant <value = bool {{1}}> ()
        parts = Loop (trips, always, parts_before) <body = run_of_rows (int64 i, bool go_on_before, parts_in) =>
            (go_on, parts_out) {{
            go_on = Identity (go_on_before)
            i_vector = Reshape (i, last)
            expert_vector = Gather (hit, i_vector)
            expert = Squeeze (expert_vector, zero)
            start = Gather (starts, expert_vector)
            end = Gather (offsets, expert_vector)
            rows = Slice (x, start, end, zero)
            rows_wide = Cast <to = 1> (rows)
            weight = Gather (w, expert)
            weight_wide = Cast <to = 1> (weight)
            shift = Gather (bias, expert)
            shift_wide = Cast <to = 1> (shift)
            part = Gemm <transB: int = @transposed> (rows_wide, weight_wide, shift_wide)
            parts_out = SequenceInsert (parts_in, part)
        }}>
        joined = ConcatFromSequence <axis = 0> (parts)
        y = CastLike (joined, x)
        }}""",
        opset,
        DOMAIN,
    )
