"""SwiGLU(x; interleaved, alpha, limit, offset) -> y = (up + offset) * gate * sigmoid(alpha * gate).

x: float16, bfloat16 or float32 (..., 2 I); gate is its first half and up its second, or with interleaved 1 (int
attribute, default 0) the even and the odd elements. gate is cut to at most limit, up to +-limit. alpha 1, limit inf and
offset 0 are float attributes with their defaults. y: (..., I) of x's dtype; float32 inside, rounded once.

Gate and up from two products are one operand once the weights are joined, which is how the chips take them.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import block_of, int_attribute, parse, row_blocks

NAME = "SwiGLU"
DOMAIN = "porting"
SINCE = 15
TYPES = "T -> T"


_BLOCK = 1 << 16
"""Elements of x in float32 at a time: what is between them and y stays in a cache, and is little beside them."""


def _parameters() -> str:
    """Nodes that make slices and numbers of x and the attributes.

    With I the width, interleaved turns the gate's slice 0:I:1 into 0:2I:2 and up's I:2I:1 into 1:2I:2.
    """
    return f"""
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
        most = Constant <value_float: float = @limit> ()
        least = Neg (most)
        alpha_scalar = Constant <value_float: float = @alpha> ()
        one_float = Constant <value = float {{1.0}}> ()
        shift = Constant <value_float: float = @offset> ()"""


def _of_rows(x: str, y: str) -> str:
    """Nodes that make ``y`` of ``x``, both float32.

    The sigmoid is spelled with Exp, because onnxruntime's own is off by 1e-4 of its value at -8, and by all of it at
    -18.
    """
    return f"""
        gate_all = Slice ({x}, zero, gate_end, last, step)
        gate = Min (gate_all, most)
        steep = Mul (gate, alpha_scalar)
        falling = Neg (steep)
        power = Exp (falling)
        divisor = Add (power, one_float)
        swish = Div (gate, divisor)
        up_all = Slice ({x}, up_start, both, last, step)
        up = Clip (up_all, least, most)
        data = Add (up, shift)
        {y} = Mul (swish, data)"""


_HEAD = f"{NAME} <interleaved: int = 0, alpha: float = 1.0, limit: float = inf, offset: float = 0.0> (x) => (y)"


def flat_body(opset: int) -> ir.Function:
    """The meaning in standard ONNX, by element-wise operators over all of x: what the legalizer puts in its place."""
    return parse(
        f"""{_HEAD} {{ {_parameters()} wide = Cast <to = 1> (x) {_of_rows("wide", "product")}
        y = CastLike (product, x) }}""",
        opset,
        DOMAIN,
    )


def body(opset: int) -> ir.Function:
    """The same by blocks of rows: memory is that of x, of y and of one copy of y on the way, whatever the dtype.

    Before opset 16 Scan takes no bfloat16: there the copy is in float32.
    """
    inside = opset >= 16
    return parse(
        f"""{_HEAD} {{
        {_parameters()}
        lead = Slice (shape, zero, last)
        rows = ReduceProd <keepdims = 1> (lead)
        flat_shape = Concat <axis = 0> (rows, both)
        flat = Reshape <allowzero = 1> (x, flat_shape)
        {row_blocks("rows", "both", _BLOCK)}
        blocks = Scan <num_scan_inputs = 1, body = block_of_rows (int64 start) => (part) {{
            {block_of("flat", "x_rows")}
            {_of_rows("x_rows", "product" if inside else "part")}
            {"part = CastLike (product, x)" if inside else ""}
        }}> (starts)
        padded_shape = Concat <axis = 0> (last, width)
        padded = Reshape (blocks, padded_shape)
        {"" if inside else "narrow = CastLike (padded, x)"}
        joined = Slice ({"padded" if inside else "narrow"}, zero, rows, zero)
        y_shape = Concat <axis = 0> (lead, width)
        y = Reshape <allowzero = 1> (joined, y_shape)
        }}""",
        opset,
        DOMAIN,
    )
