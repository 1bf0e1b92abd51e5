"""Reshape to a computed shape  ->  Reshape to a constant one."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes import provenance
from porting_passes.constants import constant_of
from porting_passes.inference import dims_of
from porting_passes.node_facts import reshape_target
from porting_passes.splice import Names

RULE = "materialize_reshape"


class MaterializeReshape(ir.passes.InPlacePass):
    """Exporters compute target shapes from Shape; what inference knows of the result says the same in a constant.

    1. All extents of the result but one are numbers, or symbols that stand at the same place in the operand: a
       constant target of numbers, 0 (copy) and at most one -1. allowzero is dropped: no extent is 0 by intent.
    2. The target is a constant already, an extent is 0, or more is unknown: leave.
    The main graph only: values of subgraphs may change from one iteration to the next.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite in place."""
        names = Names(model)
        modified = False
        for node in model.graph:
            if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx"):
                continue
            x, shape = node.inputs[0], node.inputs[1]
            if x is None or shape is None or constant_of(shape) is not None:
                continue
            dims = dims_of(node.outputs[0])
            target = None if dims is None else reshape_target(x, dims)
            if not isinstance(target, list):
                continue
            name = names.unique(f"{node.outputs[0].name}/shape")
            tensor = ir.tensor(target, dtype=ir.DataType.INT64, name=name)
            value = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(target)]), const_value=tensor
            )
            provenance.inherit(value, [shape], RULE)
            model.graph.register_initializer(value)
            node.replace_input_with(1, value)
            node.attributes.pop("allowzero", None)
            modified = True
        return ir.passes.PassResult(model, modified)
