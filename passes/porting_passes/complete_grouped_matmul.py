"""GroupedMatmul without a bias  ->  GroupedMatmul with zeros."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porting_passes import provenance
from porting_passes.splice import Names

RULE = "complete_grouped_matmul"


class CompleteGroupedMatmul(ir.passes.InPlacePass):
    """A function body cannot leave out an operand: give each grouped product one.

    1. No bias, and weights of known dtype and number of experts: zeros [experts, 1], one constant for all alike.
    2. There is a bias, or less is known: leave.
    The main graph only: that is where exporters put experts.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Complete in place."""
        names = Names(model)
        zeros: dict[tuple[ir.DataType, int], ir.Value] = {}
        modified = False
        for node in model.graph:
            if (node.domain, node.op_type) != ("porting", "GroupedMatmul") or len(node.inputs) != 3:
                continue
            weight = node.inputs[1]
            experts = None if weight is None or weight.shape is None else weight.shape[0]
            if weight is None or weight.dtype is None or not isinstance(experts, int):
                continue
            key = (weight.dtype, experts)
            if key not in zeros:
                zeros[key] = _constant(model.graph, *key, names)
                provenance.inherit(zeros[key], [], RULE)
            node.resize_inputs(4)
            node.replace_input_with(3, zeros[key])
            modified = True
        return ir.passes.PassResult(model, modified)


def _constant(graph: ir.Graph, dtype: ir.DataType, experts: int, names: Names) -> ir.Value:
    name = names.unique("no_bias")
    tensor = ir.tensor(np.zeros((experts, 1), dtype.numpy()), name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([experts, 1]), const_value=tensor)
    graph.register_initializer(value)
    return value
