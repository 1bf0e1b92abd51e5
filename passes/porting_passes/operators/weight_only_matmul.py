"""WeightOnlyMatMul(x, w, w_scale, bias; bits) -> y = x @ (w * w_scale)' + bias: float rows, integer weights.

x: float16, bfloat16 or float32 (..., K), rank 2 or more. w: int8 (N, K), output channels first. w_scale: float32 (N,),
or (N, G) for groups of K / G neighbours along K. bias: float32 (N,), or (1,) zeros where there is none: a function
body cannot leave out an operand. bits: int attribute, 8 (default), or 4 where the codes lie in -8 to 7; it says how a
chip stores them. y: of x's dtype; float32 inside, rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse

NAME = "WeightOnlyMatMul"
DOMAIN = "porting"
SINCE = 15
TYPES = "T I F F -> T"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX."""
    return parse(
        f"""{NAME} <bits: int = 8> (x, w, w_scale, bias) => (y) {{
        zero = Constant <value = int64[1] {{0}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        w_shape = Shape (w)
        n = Gather (w_shape, zero)
        column_shape = Concat <axis = 0> (n, last)
        scales = Reshape (w_scale, column_shape)
        scales_column = Unsqueeze (scales, last)
        scales_shape = Shape (scales)
        grouped_shape = Concat <axis = 0> (scales_shape, last)
        w_grouped = Reshape (w, grouped_shape)
        w_float = Cast <to = 1> (w_grouped)
        weight_grouped = Mul (w_float, scales_column)
        weight = Reshape (weight_grouped, w_shape)
        weight_turned = Transpose <perm = [1, 0]> (weight)
        x_wide = Cast <to = 1> (x)
        product = MatMul (x_wide, weight_turned)
        sum = Add (product, bias)
        y = CastLike (sum, x)
        }}""",
        opset,
        DOMAIN,
    )
