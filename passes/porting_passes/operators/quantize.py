"""Quantize(x; scale, offset) -> int8: y = saturate(round(x * scale + offset)), ties to even, NaN to 0.

x: float16, bfloat16 or float32, any shape. scale: float attribute, the reciprocal of the step. offset: int attribute,
-128 to 127, default 0. The arithmetic is float32.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import float_attribute, int8_attribute, parse

NAME = "Quantize"
DOMAIN = "porting"
SINCE = 11
TYPES = "T -> I"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX."""
    return parse(
        f"""{NAME} <scale, offset: int = 0> (x) => (y) {{
        {float_attribute("scale", "factor", opset)}
        {int8_attribute("offset", "shift", opset)}
        shift_float = Cast <to = 1> (shift)
        x_float = Cast <to = 1> (x)
        product = Mul (x_float, factor)
        sum = Add (product, shift_float)
        rounded = Round (sum)
        is_nan = IsNaN (rounded)
        zero = Constant <value = float {{0.0}}> ()
        number = Where (is_nan, zero, rounded)
        low = Constant <value = float {{-128.0}}> ()
        high = Constant <value = float {{127.0}}> ()
        clipped = Clip (number, low, high)
        y = Cast <to = 3> (clipped)
        }}""",
        opset,
        DOMAIN,
    )
