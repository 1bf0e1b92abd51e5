"""AddRMSNorm(x, residual, weight; epsilon, weight_offset) -> (y, sum): y = RMSNorm(sum), sum = x + residual.

x, residual: float16, bfloat16 or float32 (..., H), one shape and dtype; sum is rounded to that dtype before the norm
reads it. weight and the attributes are those of RMSNorm.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse
from porting_passes.operators.rms_norm import norm

NAME = "AddRMSNorm"
DOMAIN = "porting"
SINCE = 15
TYPES = "T T T -> T T"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX; from opset 23 by RMSNormalization.

    The sum is taken in float32 and rounded: the same as a half-precision sum, which stock onnxruntime has not for
    bfloat16.
    """
    return parse(
        f"""{NAME} <epsilon: float = 1e-6, weight_offset: float = 0.0> (x, residual, weight) => (y, sum) {{
        x_wide = Cast <to = 1> (x)
        residual_wide = Cast <to = 1> (residual)
        sum_wide = Add (x_wide, residual_wide)
        sum = CastLike (sum_wide, x)
        {norm("sum", "weight", "y", opset)}
        }}""",
        opset,
        DOMAIN,
    )
