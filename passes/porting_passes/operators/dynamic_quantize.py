"""DynamicQuantize(x, smooth; bits) -> (codes, scale): int8 or int4 codes with one scale a row, v = x * smooth.

x: float16, bfloat16 or float32 (..., K). smooth: float32 (K,) or (1,), ones where there is none: a function body cannot
leave out an operand. bits: int attribute, 8 (default) or 4; L = 127 or 7. scale: float32 (...), max|v| / L. codes: int8
(..., K), round(v / scale), ties to even, -L - 1 to L. A row of zeros has scale 0 and codes 0; one with NaN or an
infinity has scale infinity and codes 0, so that what is made of it is NaN. The arithmetic is float32.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int_attribute, parse

NAME = "DynamicQuantize"
DOMAIN = "porting"
SINCE = 15
TYPES = "T F -> I F"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX. NaN counts as an infinity on the way, since ReduceMax may lose it."""
    most = "ReduceMax <keepdims = 1> (known, last)" if opset >= 18 else "ReduceMax <axes = [-1], keepdims = 1> (known)"
    return parse(
        f"""{NAME} <bits: int = 8> (x, smooth) => (codes, scale) {{
        {int_attribute("bits", "bits_tensor")}
        last = Constant <value = int64[1] {{-1}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        two_float = Constant <value = float[1] {{2.0}}> ()
        one_float = Constant <value = float[1] {{1.0}}> ()
        zero_float = Constant <value = float[1] {{0.0}}> ()
        most_bits = Sub (bits_tensor, one)
        exponent = Cast <to = 1> (most_bits)
        levels = Pow (two_float, exponent)
        limit = Sub (levels, one_float)
        lowest = Neg (levels)
        wide = Cast <to = 1> (x)
        v = Mul (wide, smooth)
        magnitude = Abs (v)
        unknown = IsNaN (magnitude)
        infinite = Constant <value_float = inf> ()
        known = Where (unknown, infinite, magnitude)
        largest = {most}
        column = Div (largest, limit)
        scale = Squeeze (column, last)
        dead = Equal (column, zero_float)
        step = Where (dead, one_float, column)
        steps = Div (v, step)
        rounded = Round (steps)
        no_number = IsNaN (rounded)
        numbers = Where (no_number, zero_float, rounded)
        above = Max (numbers, lowest)
        clipped = Min (above, limit)
        codes = Cast <to = 3> (clipped)
        }}""",
        opset,
        DOMAIN,
    )
