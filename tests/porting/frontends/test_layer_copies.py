"""When a layer of a graph counts as the one before with other parameters, and what is made of it then."""

from collections.abc import Callable

import onnx_ir as ir
import pytest

from porting.frontends.layer_copies import stamp_out
from porting.frontends.repeated_layers import LayersDiffer, Run

RUN = Run("model.layers", 0, 4)
TYPE = ir.TensorType(ir.DataType.FLOAT)


def scope(layer: int) -> dict[str, str]:
    path = f"model.layers.{layer}"
    return {
        "pkg.torch.onnx.name_scopes": f"['', 'model', '{path}', '{path}.mlp', 'mul']",
        "namespace": f": Root/model: Model/{path}: Layer/{path}.mlp: Mlp/mul: aten.mul",
    }


def value(name: str) -> ir.Value:
    return ir.Value(name=name, type=TYPE, shape=ir.Shape(["batch", 4]))


def trace() -> ir.Graph:
    """x -> two layers of h = relu(h * w) + c, whose constant c the first one makes -> y = -h."""
    hidden = x = value("x")
    weights = [value(f"model.layers.{layer}.mlp.w") for layer in (0, 1)]
    constant = ir.Node("", "Constant", [], [ir.AttrFloat32("value_float", 1.0)], outputs=[value("c")], name="n_c")
    constant.metadata_props.update(scope(0))
    nodes = [constant]
    for layer, weight in enumerate(weights):
        for op, name, other in (("Mul", "m", weight), ("Relu", "r", None), ("Add", "a", constant.outputs[0])):
            inputs = [hidden] if other is None else [hidden, other]
            node = ir.Node("", op, inputs, outputs=[value(f"{name}{layer}")], name=f"n_{name}{layer}")
            node.metadata_props.update(scope(layer))
            nodes.append(node)
            hidden = node.outputs[0]
    nodes.append(ir.Node("", "Neg", [hidden], outputs=[value("y")], name="n_y"))
    return ir.Graph([x], [nodes[-1].outputs[0]], nodes=nodes, initializers=weights, opset_imports={"": 20})


def node(graph: ir.Graph, name: str) -> ir.Node:
    return next(n for n in graph if n.name == name)


def written(graph: ir.Graph) -> list[tuple[str, list[str], str]]:
    return [(n.op_type, [v.name for v in n.inputs], n.outputs[0].name) for n in graph]


def test_copies_stand_behind_the_second_layer_and_read_their_own_parameters() -> None:
    graph = trace()
    before = written(graph)
    stamp_out(graph, RUN)
    copies, hidden = [], "a1"
    for layer in (2, 3, 4):
        p = f"model.layers.{layer}."
        copies += [
            ("Mul", [hidden, f"{p}mlp.w"], f"{p}m1"),
            ("Relu", [f"{p}m1"], f"{p}r1"),
            ("Add", [f"{p}r1", "c"], f"{p}a1"),
        ]
        hidden = f"{p}a1"
    assert written(graph) == [*before[:-1], *copies, ("Neg", [hidden], "y")]
    assert list(graph.initializers) == [f"model.layers.{layer}.mlp.w" for layer in range(5)]
    assert dict(node(graph, "model.layers.3.n_r1").metadata_props) == scope(3)


def test_layer_that_ends_the_graph_hands_its_output_on() -> None:
    graph = trace()
    graph.remove(node(graph, "n_y"), safe=False)
    graph.outputs[0] = node(graph, "n_a1").outputs[0]
    stamp_out(graph, RUN)
    assert [v.name for v in graph.outputs] == ["model.layers.4.a1"]


def another_operator(graph: ir.Graph) -> None:
    node(graph, "n_r1").op_type = "Sigmoid"


def another_attribute(graph: ir.Graph) -> None:
    node(graph, "n_r1").attributes.add(ir.AttrInt64("axis", 1))


def another_shape(graph: ir.Graph) -> None:
    node(graph, "n_r1").outputs[0].shape = ir.Shape(["batch", 5])


def another_place(graph: ir.Graph) -> None:
    node(graph, "n_r1").metadata_props["pkg.torch.onnx.stack_trace"] = 'File "model.py", line 7, in forward'


def another_module(graph: ir.Graph) -> None:
    props = node(graph, "n_r1").metadata_props
    props["pkg.torch.onnx.name_scopes"] = props["pkg.torch.onnx.name_scopes"].replace("mlp", "norm")


def parameter_of_the_first(graph: ir.Graph) -> None:
    node(graph, "n_m1").replace_input_with(1, graph.initializers["model.layers.0.mlp.w"])


def parameter_of_the_second(graph: ir.Graph) -> None:
    node(graph, "n_m0").replace_input_with(1, graph.initializers["model.layers.1.mlp.w"])


def another_constant(graph: ir.Graph) -> None:
    made = ir.Node("", "Constant", [], [ir.AttrFloat32("value_float", 2.0)], outputs=[value("d")], name="n_d")
    made.metadata_props.update(scope(1))
    graph.insert_before(node(graph, "n_m1"), made)
    node(graph, "n_a1").replace_input_with(1, made.outputs[0])


def inner_value_of_the_first(graph: ir.Graph) -> None:
    node(graph, "n_a1").replace_input_with(1, node(graph, "n_m0").outputs[0])


def inner_value_used_behind(graph: ir.Graph) -> None:
    node(graph, "n_y").replace_input_with(0, node(graph, "n_r1").outputs[0])


def first_hidden_state_used_behind(graph: ir.Graph) -> None:
    made = ir.Node("", "Add", [node(graph, "n_a0").outputs[0], graph.outputs[0]], outputs=[value("z")], name="n_z")
    graph.append(made)
    graph.outputs[0] = made.outputs[0]


def something_between(graph: ir.Graph) -> None:
    made = ir.Node("", "Neg", [node(graph, "n_a0").outputs[0]], outputs=[value("z")], name="n_z")
    graph.insert_before(node(graph, "n_m1"), made)
    node(graph, "n_m1").replace_input_with(0, made.outputs[0])


def operands_swapped(graph: ir.Graph) -> None:
    mul = node(graph, "n_m1")
    left, right = mul.inputs
    mul.replace_input_with(0, right)
    mul.replace_input_with(1, left)


def not_traced(graph: ir.Graph) -> None:
    for name in ("n_r1", "n_m1", "n_a1"):
        node(graph, name).metadata_props.clear()


@pytest.mark.parametrize(
    "change",
    [
        another_operator,
        another_attribute,
        another_shape,
        another_place,
        another_module,
        parameter_of_the_first,
        parameter_of_the_second,
        another_constant,
        inner_value_of_the_first,
        inner_value_used_behind,
        first_hidden_state_used_behind,
        something_between,
        operands_swapped,
        not_traced,
    ],
    ids=lambda change: change.__name__,
)
def test_a_layer_that_differs_is_refused_and_nothing_changed(change: Callable[[ir.Graph], None]) -> None:
    graph = trace()
    change(graph)
    before = written(graph), list(graph.initializers)
    with pytest.raises(LayersDiffer):
        stamp_out(graph, RUN)
    assert (written(graph), list(graph.initializers)) == before
