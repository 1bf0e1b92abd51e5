"""RMSNorm(x, weight; epsilon, weight_offset) -> y = x / sqrt(mean(x^2) + epsilon) * (weight + weight_offset).

x: float16, bfloat16 or float32 (..., H). weight: float (H,). The mean goes over the last axis. epsilon 1e-6 and
weight_offset 0 (1 in Gemma) are float attributes with their defaults. y: of x's shape and dtype; float32 inside,
rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse

NAME = "RMSNorm"
DOMAIN = "porting"
SINCE = 15
TYPES = "T T -> T"


def norm(x: str, weight: str, y: str, opset: int) -> str:
    """Nodes that make ``y`` of the values ``x`` and ``weight`` and the attributes epsilon and weight_offset."""
    if opset >= 23:
        quotient = "normalized = RMSNormalization <axis = -1, epsilon: float = @epsilon> (wide, scale)"
    else:
        axes = "<axes = [-1]> (square)" if opset < 18 else "(square, last)"
        quotient = f"""
        last = Constant <value = int64[1] {{-1}}> ()
        square = Mul (wide, wide)
        power = ReduceMean {axes}
        small = Constant <value_float: float = @epsilon> ()
        sum_of_both = Add (power, small)
        root = Sqrt (sum_of_both)
        unscaled = Div (wide, root)
        normalized = Mul (unscaled, scale)"""
    return f"""
        wide = Cast <to = 1> ({x})
        weight_wide = Cast <to = 1> ({weight})
        shift = Constant <value_float: float = @weight_offset> ()
        scale = Add (weight_wide, shift)
        {quotient}
        {y} = CastLike (normalized, {x})"""


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX; from opset 23 by RMSNormalization."""
    return parse(
        f"""{NAME} <epsilon: float = 1e-6, weight_offset: float = 0.0> (x, weight) => (y) {{
        {norm("x", "weight", "y", opset)}
        }}""",
        opset,
        DOMAIN,
    )
