"""IntegerConv(x, w, bias; Conv's attributes, x_zero_point) -> int32, the exact convolution of x - x_zero_point with w.

x: int8 (N, C, D1..Dn). w: int8 (M, C/group, K1..Kn). bias: int32 (M,) or (1,), zeros where there is none: a function
body cannot leave out an operand. x_zero_point: int attribute, -128 to 127, default 0. Padding counts as x_zero_point.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int8_attribute, parse

NAME = "IntegerConv"
DOMAIN = "porting"
SINCE = 11
TYPES = "I I I -> I"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX. The bias gets the trailing axes of the accumulator."""
    return parse(
        f"""{NAME} <auto_pad, dilations, group, kernel_shape, pads, strides, x_zero_point: int = 0>
        (x, w, bias) => (y) {{
        {int8_attribute("x_zero_point", "zero_int", opset)}
        zero_point = Cast <to = 3> (zero_int)
        acc = ConvInteger <auto_pad: string = @auto_pad, dilations: ints = @dilations, group: int = @group,
            kernel_shape: ints = @kernel_shape, pads: ints = @pads, strides: ints = @strides> (x, w, zero_point)
        shape = Shape (acc)
        two = Constant <value = int64[1] {{2}}> ()
        most = Constant <value = int64[1] {{1000}}> ()
        spatial = Slice (shape, two, most)
        zero = Constant <value = int64[1] {{0}}> ()
        one = Constant <value = int64[1] {{1}}> ()
        spatial_zeros = Mul (spatial, zero)
        spatial_ones = Add (spatial_zeros, one)
        channels = Constant <value = int64[1] {{-1}}> ()
        bias_shape = Concat <axis = 0> (channels, spatial_ones)
        bias_column = Reshape (bias, bias_shape)
        y = Add (acc, bias_column)
        }}""",
        opset,
        DOMAIN,
    )
