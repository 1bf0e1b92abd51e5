"""Remove what no output needs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


class EliminateDeadCode(ir.passes.InPlacePass):
    """Remove unused nodes, initializers (those of subgraphs too), functions and opset imports.

    1. Graph inputs and outputs stay, used or not; so does an initializer that is a graph input.
    2. An unused trailing optional output of a node is dropped.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove in place."""
        modified = common.RemoveUnusedNodesPass()(model).modified
        for graph in model.graphs():
            for name, value in list(graph.initializers.items()):
                if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                    del graph.initializers[name]
                    modified = True
        sweep = ir.passes.Sequential(common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass())  # type: ignore[no-untyped-call]
        modified |= sweep(model).modified
        return ir.passes.PassResult(model, modified)
