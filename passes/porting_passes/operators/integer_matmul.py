"""IntegerMatMul(a, b, bias; a_zero_point) -> int32, the exact product of (a - a_zero_point) with b.

a: int8 (..., K), rank 2 or more. b: int8 (K, N). bias: int32 (N,) or (1,), zeros where there is none: a function body
cannot leave out an operand. a_zero_point: int attribute, -128 to 127, default 0.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int8_attribute, parse

NAME = "IntegerMatMul"
DOMAIN = "porting"
SINCE = 11
TYPES = "I I I -> I"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX."""
    return parse(
        f"""{NAME} <a_zero_point: int = 0> (a, b, bias) => (y) {{
        {int8_attribute("a_zero_point", "zero_int", opset)}
        zero_point = Cast <to = 3> (zero_int)
        acc = MatMulInteger (a, b, zero_point)
        y = Add (acc, bias)
        }}""",
        opset,
        DOMAIN,
    )
