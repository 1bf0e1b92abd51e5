"""RotaryEmbedding(x, cos, sin; layout) -> y: each pair (a, b) of x becomes (a cos - b sin, b cos + a sin).

x: float16, bfloat16 or float32 (B, heads, S, R). cos, sin: float (B or 1, S, R / 2). y: of x's shape and dtype; float32
inside, rounded once. layout, a string, default "half": a and b are the halves of the last axis. "interleaved": its even
and odd elements. "interleaved_to_half": the even and odd elements of x, the halves of y. The kernel says who has which.

ONNX's own operator (opset 23) has no tables that are shared by a batch, and not the last layout.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import attribute_is, parse

NAME = "RotaryEmbedding"
DOMAIN = "porting"
SINCE = 15
TYPES = "T T T -> T"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX.

    With R the width, pairs turn the slice 0:R/2:1 of a into 0:R:2 and R/2:R:1 of b into 1:R:2.
    """
    return parse(
        f"""{NAME} <layout: string = "half"> (x, cos, sin) => (y) {{
        {attribute_is("layout", "half", "is_half")}
        {attribute_is("layout", "interleaved", "is_interleaved")}
        zero = Constant <value = int64[1] {{0}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        two = Constant <value = int64[1] {{2}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        shape = Shape (x)
        width = Gather (shape, last)
        middle = Div (width, two)
        step = Where (is_half, one, two)
        a_end = Where (is_half, middle, width)
        b_start = Where (is_half, middle, one)
        wide = Cast <to = 1> (x)
        a = Slice (wide, zero, a_end, last, step)
        b = Slice (wide, b_start, width, last, step)
        cos_wide = Cast <to = 1> (cos)
        sin_wide = Cast <to = 1> (sin)
        c = Unsqueeze (cos_wide, one)
        s = Unsqueeze (sin_wide, one)
        a_cos = Mul (a, c)
        b_sin = Mul (b, s)
        real = Sub (a_cos, b_sin)
        b_cos = Mul (b, c)
        a_sin = Mul (a, s)
        imaginary = Add (b_cos, a_sin)
        halves = Concat <axis = -1> (real, imaginary)
        real_column = Unsqueeze (real, last)
        imaginary_column = Unsqueeze (imaginary, last)
        columns = Concat <axis = -1> (real_column, imaginary_column)
        pairs = Reshape (columns, shape)
        turned = Where (is_interleaved, pairs, halves)
        y = CastLike (turned, x)
        }}""",
        opset,
        DOMAIN,
    )
