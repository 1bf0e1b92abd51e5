"""QuantizedMatMul(a, a_scale, w, w_scale, bias; to) -> y = (float32(a @ w') * w_scale) * a_scale + bias.

a: int8 (..., K), rank 2 or more. a_scale: float32 (...), one a row. w: int8 (N, K), output channels first. w_scale:
float32 (N,). bias: float32 (N,), or (1,) zeros where there is none: a function body cannot leave out an operand.
to: int attribute, the ONNX code of y's dtype, default 1 (FLOAT). The product is exact in int32, y is rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse

NAME = "QuantizedMatMul"
DOMAIN = "porting"
SINCE = 15
TYPES = "I F I F F -> A"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX."""
    return parse(
        f"""{NAME} <to: int = 1> (a, a_scale, w, w_scale, bias) => (y) {{
        last = Constant <value = int64[1] {{-1}}> ()
        w_turned = Transpose <perm = [1, 0]> (w)
        acc = MatMulInteger (a, w_turned)
        acc_float = Cast <to = 1> (acc)
        by_channel = Mul (acc_float, w_scale)
        a_column = Unsqueeze (a_scale, last)
        by_row = Mul (by_channel, a_column)
        sum = Add (by_row, bias)
        y = Cast <to: int = @to> (sum)
        }}""",
        opset,
        DOMAIN,
    )
