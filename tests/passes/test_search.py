from __future__ import annotations

import onnx_ir as ir
import pytest

from porting_passes.contract import EXACT
from porting_passes.rewrite import RewritePass
from porting_passes.search import Search, Trail


def model_of(body: str, outputs: str = "float[3] y") -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[3] x, float[3] z) => ({outputs}) {{ {body} }}'
    )


def search(match, replacement, root: str, *, several_outputs: bool = False) -> Search:
    return Search("test", ("", root), match, replacement, EXACT, lambda rng: [], several_outputs=several_outputs)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def double_negation(trail: Trail, node: ir.Node) -> dict:
    return {"x": trail.up(node.inputs[0], "Neg").inputs[0]}


NEG = search(double_negation, lambda op, x: op.Identity(x), "Neg")


def test_what_was_passed_goes_away():
    model = model_of("a = Neg(x) y = Neg(a)")
    result = RewritePass((NEG,))(model)
    assert operators(model) == ["Identity"]
    assert [applied.rule for applied in result.applied] == ["test"]


def test_a_leak_ends_the_search():
    model = model_of("a = Neg(x) y = Neg(a) w = Abs(a)", "float[3] y, float[3] w")
    assert not RewritePass((NEG,))(model).modified
    assert not RewritePass((NEG,))(model_of("a = Neg(x) y = Neg(a)", "float[3] y, float[3] a")).modified


def test_shared_steps_may_leak_and_stay():
    shared = search(
        lambda trail, node: {"x": trail.up(node.inputs[0], "Neg", shared=True).inputs[0]},
        lambda op, x: op.Identity(x),
        "Neg",
    )
    model = model_of("a = Neg(x) y = Neg(a) w = Abs(a)", "float[3] y, float[3] w")
    assert RewritePass((shared,))(model).modified
    assert sorted(operators(model)) == ["Abs", "Identity", "Neg"]


def test_either_operand():
    def match(trail: Trail, node: ir.Node) -> dict:
        made, other = trail.operand(node, "Neg")
        return {"x": made.inputs[0], "z": other}

    subtract = search(match, lambda op, x, z: op.Sub(z, x), "Add")
    for body in ("a = Neg(x) y = Add(a, z)", "a = Neg(x) y = Add(z, a)"):
        model = model_of(body)
        assert RewritePass((subtract,))(model).modified
        assert [value.name for value in model.graph.node(0).inputs] == ["z", "x"]


def test_a_root_that_stays_reads_what_replaces_its_operands(check_model):
    def match(trail: Trail, node: ir.Node) -> dict:
        trail.stay()
        left, right = (trail.up(value, "Neg") for value in node.inputs)
        trail.outputs = [left.outputs[0], right.outputs[0]]
        return {"x": left.inputs[0], "z": right.inputs[0]}

    pair = search(
        match,
        lambda op, x, z: op.Split(op.Neg(op.Concat(x, z, axis=0)), num_outputs=2, axis=0, _outputs=2),
        "Mul",
        several_outputs=True,
    )
    model = model_of("a = Neg(x) b = Neg(z) y = Mul(a, b)")
    assert RewritePass((pair,))(model).modified
    assert operators(model) == ["Concat", "Neg", "Split", "Mul"]
    check_model(model)


def test_steps_do_not_leave_the_graph_of_the_root():
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[3] x, bool c) => (float[3] y) {
        a = Neg(x) y = If(c) <then_branch = t () => (float[3] p) { p = Neg(a) },
        else_branch = e () => (float[3] q) { b = Neg(x) q = Neg(b) }> }"""
    model = ir.from_onnx_text(text)
    assert len(RewritePass((NEG,))(model).applied) == 1


@pytest.mark.parametrize("steps", [1, 3])
def test_through_any_number_of_nodes(steps):
    casts = " ".join(f"a{i + 1} = Abs(a{i})" for i in range(steps))
    model = model_of(f"a0 = Abs(x) {casts} y = Neg(a{steps})")
    through = search(
        lambda trail, node: {"x": trail.through(node.inputs[0], "Abs")}, lambda op, x: op.Neg(op.Abs(x)), "Neg"
    )
    assert RewritePass((through,))(model).modified
    assert operators(model) == ["Abs", "Neg"]


def test_down_needs_a_single_reader():
    seen = []

    def match(trail: Trail, node: ir.Node) -> dict:
        reader = trail.down(node.outputs[0], "Abs")
        seen.append(reader is not None)
        trail.fail()

    RewritePass((search(match, None, "Neg"),))(model_of("a = Neg(x) y = Abs(a)"))
    RewritePass((search(match, None, "Neg"),))(model_of("a = Neg(x) y = Abs(a) w = Exp(a)", "float[3] y, float[3] w"))
    assert seen == [True, False]
