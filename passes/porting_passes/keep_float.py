"""Which nodes a surface's static int8 leaves in float, with the reason."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.constraints import Operand, Subject, parse
from porting_passes.node_view import view
from porting_passes.quantization_style import KeepFloat, QuantizationStyle
from porting_passes.row_check import defaults
from porting_passes.schemas import schema


def keep_float(node: ir.Node, style: QuantizationStyle, opset: int) -> KeepFloat | None:
    """The first exception of the style that covers the node, or None. What cannot be told counts as covered.

    opset: the model's ai.onnx version. Only nodes of ``style.operators`` are meant to be asked about.
    """
    rules = [rule for rule in style.keep_float if rule.operator == node.op_type]
    found = schema(node.domain, node.op_type, opset) if rules else None
    if found is None:
        return None
    seen = view(node, opset)
    operands: dict[str, Operand | None] = {
        parameter.name: seen.inputs[i] if i < len(seen.inputs) else None for i, parameter in enumerate(found.inputs)
    }
    subject = Subject(operands, defaults(node.domain, node.op_type, opset) | dict(seen.attributes), opset)
    return next((rule for rule in rules if parse(rule.when).decide(subject).holds is not False), None)
