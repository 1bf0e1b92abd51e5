"""Dequantize(acc, scale; axis, dtype) -> float: y = float32(acc) * scale, cast to dtype.

acc: int32, any shape. scale: float32, one element or as many as acc has along ``axis`` (int attribute, default 1).
dtype: ONNX element type code of y, default 1 (FLOAT).
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import parse

NAME = "Dequantize"
DOMAIN = "porting"
SINCE = 11
TYPES = "I F -> A"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX.

    The shape that lines scale up with ``axis`` must come from an attribute and an unknown rank: ArgMax over ``axis``
    of a cube of extent 2 leaves extent 1 there and 2 elsewhere, and 2 * extent - 3 makes that -1 there and 1 elsewhere.
    """
    return parse(
        f"""{NAME} <axis: int = 1, dtype: int = 1> (acc, scale) => (y) {{
        shape = Shape (acc)
        zero = Constant <value = int64[1] {{0}}> ()
        two = Constant <value = int64[1] {{2}}> ()
        three = Constant <value = int64[1] {{3}}> ()
        zeros = Mul (shape, zero)
        twos = Add (zeros, two)
        cube = ConstantOfShape (twos)
        flat = ArgMax <axis: int = @axis, keepdims = 1> (cube)
        flat_shape = Shape (flat)
        doubled = Mul (flat_shape, two)
        scale_shape = Sub (doubled, three)
        scale_column = Reshape (scale, scale_shape)
        acc_float = Cast <to = 1> (acc)
        product = Mul (acc_float, scale_column)
        y = Cast <to: int = @dtype> (product)
        }}""",
        opset,
        DOMAIN,
    )
