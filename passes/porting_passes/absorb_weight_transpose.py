"""MatMul(x, Transpose(weight))  ->  MatMul(x, the weight as it is needed)."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes import provenance
from porting_passes.constants import constant_of
from porting_passes.node_facts import attribute
from porting_passes.splice import Names
from porting_passes.stored import is_stored, is_view
from porting_passes.turn_weight import turned

RULE = "absorb_weight_transpose"


class AbsorbWeightTranspose(ir.passes.InPlacePass):
    """Exporters keep a linear layer's weight as [out, in] and transpose it in the graph; store it as [in, out].

    1. A transpose of the last two axes of a weight that is the second operand of products only: they take a new weight,
       ``NAME/transposed``, and the transpose goes. Its contents are not read: a stored tensor shows its file the other
       way round, an ordinary one is turned when somebody asks for it. Transposes of one weight become one.
    2. The weight has other consumers (embeddings that are tied to the head): they keep it.
    3. Something else than a product reads the transpose, the weight is computed or may be overridden: leave.
    The main graph only: that is where exporters put weights.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Absorb in place."""
        names = Names(model)
        made: dict[ir.Value, ir.Value] = {}
        modified = False
        for node in model.graph:
            weight = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
            tensor = constant_of(weight)
            if (
                weight is None
                or tensor is None
                or (is_stored(tensor) and not is_view(tensor))
                or not weight.is_initializer()
                or not _feeds_products(node)
            ):
                continue
            rank = len(tensor.shape)
            if rank < 2 or attribute(node, "perm") is None:
                continue
            if list(attribute(node, "perm")) != [*range(rank - 2), rank - 1, rank - 2]:
                continue
            if weight not in made:
                made[weight] = _new_weight(model.graph, weight, tensor, names)
            else:
                provenance.inherit(made[weight], [node.outputs[0], weight], RULE)
            node.outputs[0].replace_all_uses_with(made[weight])
            model.graph.remove(node, safe=True)
            modified = True
        for weight in made:
            if not (weight.uses() or weight.is_graph_output()):
                del model.graph.initializers[str(weight.name)]
        return ir.passes.PassResult(model, modified)


def _feeds_products(node: ir.Node) -> bool:
    (result,) = node.outputs
    uses = result.uses()
    return bool(uses) and not result.is_graph_output() and all(n.op_type == "MatMul" and i == 1 for n, i in uses)


def _new_weight(graph: ir.Graph, weight: ir.Value, tensor: ir.TensorProtocol, names: Names) -> ir.Value:
    name = names.unique(f"{weight.name}/transposed")
    stored = turned(tensor, name)
    value = ir.Value(
        name=name, shape=ir.Shape(stored.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=stored
    )
    provenance.inherit(value, [weight], RULE)
    graph.register_initializer(value)
    return value
