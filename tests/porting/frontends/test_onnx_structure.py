"""A value that is read before it is given, and an attribute of a wrong type, are refused by name."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from porting import frontends
from porting.errors import InvalidModelError

FLOAT = TensorProto.FLOAT


def relu(source: str, target: str, name: str = "") -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [target], name=name)


def branch(*nodes: onnx.NodeProto, output: str = "b") -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "b", [], [helper.make_tensor_value_info(output, FLOAT, [4])])


def load(folder: Path, *nodes: onnx.NodeProto) -> frontends.Source:
    x, y = (helper.make_tensor_value_info(n, FLOAT, [4]) for n in "xy")
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(list(nodes), "g", [x, c], [y])
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return frontends.load(str(path))


BRANCH = branch(relu("x", "b"))
BROKEN = {
    "unsorted": (
        [relu("h", "y", "n2"), relu("x", "h", "n1")],
        "node n2 reads 'h', which no earlier node, input or initializer gives\n.*node n1 behind it does",
    ),
    "undefined": ([relu("h", "y")], "node y reads 'h', which no earlier .*\n.*nothing gives it"),
    "undefined in a branch": (
        [helper.make_node("If", ["c"], ["y"], then_branch=BRANCH, else_branch=branch(relu("h", "b", "inner")))],
        "node inner reads 'h'",
    ),
    "an output of a branch, read outside": (
        [
            helper.make_node(
                "If", ["c"], ["z"], then_branch=branch(relu("x", "b")), else_branch=branch(relu("x", "b"))
            ),
            relu("b", "y", "n"),
        ],
        "node n reads 'b'",
    ),
    "an output that nothing gives": ([relu("x", "h")], "output 'y' is given by no node"),
    "a string for an integer": (
        [helper.make_node("Softmax", ["x"], ["y"], name="s", axis="last")],
        "attribute 'axis' of node s has another type than Softmax takes\n  required INT\n  met      STRING",
    ),
}


@pytest.mark.parametrize(("nodes", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_graph_is_refused_by_name(tmp_path: Path, nodes: list[onnx.NodeProto], message: str) -> None:
    with pytest.raises(InvalidModelError, match=message) as error:
        load(tmp_path, *nodes)
    assert error.value.exit_code == 2


def test_a_branch_reads_what_was_given_before_it(tmp_path: Path) -> None:
    branches = {"then_branch": branch(relu("h", "b")), "else_branch": branch(relu("x", "b"))}
    source = load(tmp_path, relu("x", "h"), helper.make_node("If", ["c"], ["y"], **branches))
    assert len(list(source.model.graph)) == 2
