"""MoeCombine(rows, index, weights) -> y: y[t] = sum over slots s of weights[t, s] * rows[r], index[r] = t * k + s.

rows: float16, bfloat16 or float32 (N * k, H). index: int64 (N * k,), a permutation, as MoeDispatch gives it. weights:
float (N, k). y: (N, H) of the dtype of rows. Products and sums are float32, slot 0 first, and the sum is rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse

NAME = "MoeCombine"
DOMAIN = "porting"
SINCE = 15
TYPES = "T I F -> T"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX. N may be 0.

    A Loop over the slots: sums in a fixed order, and no more than a few times y in memory.
    """
    return parse(
        f"""{NAME} (rows, index, weights) => (y) {{
        zero = Constant <value = int64 {{0}}> ()
        one = Constant <value = int64 {{1}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        first_axis = Constant <value = int64[1] {{0}}> ()
        second_axis = Constant <value = int64[1] {{1}}> ()
        entries = Size (index)
        entry = Range (zero, entries, one)
        inverse = ScatterElements <axis = 0> (index, index, entry)
        weights_shape = Shape (weights)
        row_of = Reshape (inverse, weights_shape)
        factors = Cast <to = 1> (weights)
        tokens = Gather (weights_shape, first_axis)
        slots = Gather (weights_shape, one)
        rows_shape = Shape (rows)
        hidden = Gather (rows_shape, second_axis)
        y_shape = Concat <axis = 0> (tokens, hidden)
        nothing = ConstantOfShape (y_shape)
        always = Constant <value = bool {{1}}> ()
        total = Loop (slots, always, nothing) <body = slot (int64 s, bool go_on_before, before) => (go_on, after) {{
            go_on = Identity (go_on_before)
            s_vector = Reshape (s, last)
            row = Gather <axis = 1> (row_of, s)
            part = Gather (rows, row)
            part_wide = Cast <to = 1> (part)
            factor = Gather <axis = 1> (factors, s_vector)
            product = Mul (part_wide, factor)
            after = Add (before, product)
        }}>
        y = CastLike (total, rows)
        }}""",
        opset,
        DOMAIN,
    )
