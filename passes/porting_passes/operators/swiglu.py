"""SwiGLU(x; interleaved, alpha, limit, offset) -> y = (up + offset) * gate * sigmoid(alpha * gate).

x: float16, bfloat16 or float32 (..., 2 I); gate is its first half and up its second, or with interleaved 1 (int
attribute, default 0) the even and the odd elements. gate is cut to at most limit, up to +-limit. alpha 1, limit inf and
offset 0 are float attributes with their defaults. y: (..., I) of x's dtype; float32 inside, rounded once.

Gate and up from two products are one operand once the weights are joined, which is how the chips take them.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int_attribute, parse

NAME = "SwiGLU"
DOMAIN = "porting"
SINCE = 15
TYPES = "T -> T"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX.

    With I the width, interleaved turns the gate's slice 0:I:1 into 0:2I:2 and up's I:2I:1 into 1:2I:2. The sigmoid is
    spelled with Exp, because onnxruntime's own is off by 1e-4 of its value at -8, and by all of it at -18.
    """
    return parse(
        f"""{NAME} <interleaved: int = 0, alpha: float = 1.0, limit: float = inf, offset: float = 0.0> (x) => (y) {{
        {int_attribute("interleaved", "is_interleaved")}
        zero = Constant <value = int64[1] {{0}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        two = Constant <value = int64[1] {{2}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        shape = Shape (x)
        both = Gather (shape, last)
        width = Div (both, two)
        pairs = Cast <to = 9> (is_interleaved)
        step = Add (one, is_interleaved)
        gate_end = Where (pairs, both, width)
        up_start = Where (pairs, one, width)
        gate_narrow = Slice (x, zero, gate_end, last, step)
        gate_all = Cast <to = 1> (gate_narrow)
        most = Constant <value_float: float = @limit> ()
        gate = Min (gate_all, most)
        alpha_scalar = Constant <value_float: float = @alpha> ()
        steep = Mul (gate, alpha_scalar)
        falling = Neg (steep)
        power = Exp (falling)
        one_float = Constant <value = float {{1.0}}> ()
        divisor = Add (power, one_float)
        swish = Div (gate, divisor)
        up_narrow = Slice (x, up_start, both, last, step)
        up_all = Cast <to = 1> (up_narrow)
        least = Neg (most)
        up = Clip (up_all, least, most)
        shift = Constant <value_float: float = @offset> ()
        data = Add (up, shift)
        product = Mul (swish, data)
        y = CastLike (product, x)
        }}""",
        opset,
        DOMAIN,
    )
