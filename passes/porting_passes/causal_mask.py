"""Is an additive mask the causal one? Answered from how it is made, never from its name."""

from __future__ import annotations

import ml_dtypes
import onnx_ir as ir

from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, operand
from porting_passes.pattern_facts import number_of

_LAYOUT = ("Unsqueeze", "Expand", "Identity")


def is_causal(mask: ir.Value) -> bool:
    """Whether a mask [..., queries, keys] is 0 where key <= query and as low as its dtype goes elsewhere.

    Queries and keys are one range 0, 1, 2 ..., compared along the last two axes, or the mask is the part above the
    diagonal of a matrix of that number. Such a low score has a weight of exactly 0 beside the query's own key, which is
    never masked: leaving it out changes no bit of a softmax.
    """
    if _is_triangle(mask):
        return True
    where = _made_by(mask, "Where")
    if where is None or mask.dtype is None or not mask.dtype.is_floating_point():
        return False
    if number_of(where.inputs[1]) != 0 or not _is_lowest(where.inputs[2], mask.dtype):
        return False
    compared = _made_by(_above(where.inputs[0]), "LessOrEqual", "GreaterOrEqual")
    if compared is None:
        return False
    keys, queries = compared.inputs if compared.op_type == "LessOrEqual" else compared.inputs[::-1]
    lengths = [_length_along(keys, -1), _length_along(queries, -2)]
    dims = dims_of(mask)
    return None not in lengths and lengths[0] is lengths[1] and dims is not None and dims[-1] == dims[-2]


def _is_lowest(value: ir.Value | None, dtype: ir.DataType) -> bool:
    low = number_of(value)
    return low is not None and low <= float(ml_dtypes.finfo(dtype.numpy()).min)


def _is_triangle(mask: ir.Value) -> bool:
    """torch.full(...).triu(1) of a square matrix."""
    trilu, dims = _made_by(mask, "Trilu"), dims_of(mask)
    if trilu is None or dims is None or len(dims) < 2 or dims[-1] is None or dims[-1] != dims[-2]:
        return False
    filled = _made_by(trilu.inputs[0], "Expand")
    return (
        attribute(trilu, "upper", 1) == 1
        and number_of(operand(trilu, 1)) == 1
        and filled is not None
        and mask.dtype is not None
        and mask.dtype.is_floating_point()
        and _is_lowest(filled.inputs[0], mask.dtype)
    )


def _length_along(value: ir.Value | None, axis: int) -> ir.Value | None:
    """n of a value that is 0, 1 ... n - 1 along one axis and has no other extent; None when it is not."""
    dims = None if value is None else dims_of(value)
    if dims is None or len(dims) < -axis or any(d != 1 for i, d in enumerate(dims) if i - len(dims) != axis):
        return None
    while (node := _made_by(value, *_LAYOUT, "Add", "Cast")) is not None:
        if node.op_type == "Add":
            if number_of(node.inputs[1]) != 0 and number_of(node.inputs[0]) != 0:
                return None
            value = node.inputs[0] if number_of(node.inputs[1]) == 0 else node.inputs[1]
        elif node.op_type == "Cast" and not (
            value is not None and value.dtype in (ir.DataType.INT64, ir.DataType.INT32)
        ):
            return None
        else:
            value = node.inputs[0]
    counted = _made_by(value, "Range")
    if counted is None or number_of(counted.inputs[0]) != 0 or number_of(counted.inputs[2]) != 1:
        return None
    return counted.inputs[1]


def _above(value: ir.Value | None) -> ir.Value | None:
    """The value that was broadcast and given axes in front."""
    while (node := _made_by(value, *_LAYOUT)) is not None:
        if node.op_type == "Unsqueeze":
            inner = node.inputs[0]
            before, after = (None if v is None else dims_of(v) for v in (inner, value))
            if before is None or after is None or after[-len(before) :] != before:
                return None
        value = node.inputs[0]
    return value


def _made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types and node.domain == "" else None
