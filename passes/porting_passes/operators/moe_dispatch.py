"""MoeDispatch(x, ids; experts) -> (rows, offsets, index): the rows of tokens in the order of the experts they go to.

x: (N, H), any dtype. ids: int64 (N, k), each from 0 to experts - 1. rows: (N * k, H) of x's dtype, sorted by expert,
then token, then slot. offsets: int64 (experts,), the end of each expert's rows. index: int64 (N * k,), which entry of
ids, token * k + slot, a row stands for.
"""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.operators.function_text import int_attribute, parse

NAME = "MoeDispatch"
DOMAIN = "porting"
SINCE = 16
TYPES = "T I -> T I I"


def body(opset: int) -> ir.Function:
    """The meaning in standard ONNX, from opset 16, where ScatterElements adds. N may be 0.

    The keys expert * N * k + entry are all different, so that TopK sorts them and keeps entries in order.
    """
    return parse(
        f"""{NAME} <experts> (x, ids) => (rows, offsets, index) {{
        zero = Constant <value = int64 {{0}}> ()
        one = Constant <value = int64 {{1}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        ids_shape = Shape (ids)
        slots = Gather (ids_shape, one)
        entries = Size (ids)
        entries_shape = Reshape (entries, last)
        flat = Reshape (ids, entries_shape)
        entry = Range (zero, entries, one)
        groups = Mul (flat, entries)
        keys = Add (groups, entry)
        sorted, index = TopK <axis = 0, largest = 0> (keys, entries_shape)
        token = Div (index, slots)
        rows = Gather (x, token)
        {int_attribute("experts", "experts_shape")}
        none = ConstantOfShape <value = int64[1] {{0}}> (experts_shape)
        once = ConstantOfShape <value = int64[1] {{1}}> (entries_shape)
        counts = ScatterElements <axis = 0, reduction = "add"> (none, flat, once)
        offsets = CumSum (counts, zero)
        }}""",
        opset,
        DOMAIN,
    )
