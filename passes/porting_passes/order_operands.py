"""Constants stand second, so that patterns need to look in one place."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.constants import constant_of
from porting_passes.scopes import nodes

COMMUTATIVE = frozenset(
    {"Add", "Mul", "Max", "Min", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)


class OrderOperands(ir.passes.InPlacePass):
    """Swap the operands of commutative operators.

    1. The first of two operands is a constant and the second is not: swap. The result is the same, bit for bit.
    2. Anything else: leave.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Swap in place, subgraphs and functions included."""
        modified = False
        for node, _ in nodes(model):
            if node.op_type not in COMMUTATIVE or node.domain != "" or len(node.inputs) != 2:
                continue
            first, second = node.inputs
            if constant_of(first) is not None and constant_of(second) is None:
                node.replace_input_with(0, second)
                node.replace_input_with(1, first)
                modified = True
        return ir.passes.PassResult(model, modified)
