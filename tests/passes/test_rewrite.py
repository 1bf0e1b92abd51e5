from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from porting_passes import provenance
from porting_passes.rewrite import EXACT, Example, Rewrite, RewritePass


def no_examples(rng: np.random.Generator) -> list[Example]:
    return []


def rewrite(name: str, pattern, replacement, **options) -> Rewrite:
    return Rewrite(name, pattern, replacement, EXACT, no_examples, **options)


def check(model: ir.Model) -> None:
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def operators(scope: ir.Graph | ir.Function) -> list[str]:
    return [node.op_type for node in scope]


def mark(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            provenance.set_(value, provenance.Provenance((value.name,), equal=True))


SWISH = rewrite("swish", lambda op, x: op.Mul(x, op.Sigmoid(x)), lambda op, x: op.Swish(x, alpha=1.0), commute=True)
RELU_RELU = rewrite("relu_relu", lambda op, x: op.Relu(op.Relu(x, _outputs=["y"])), lambda op, x, y: y)
DOUBLE_NEG = rewrite("neg_neg", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x)


def test_replaces_a_match_and_keeps_the_name_type_and_provenance() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 24]> g (float[2] x) => (float[2] y) {
        s = Sigmoid(x)  m = Mul(s, x)  y = Relu(m) }"""
    )
    mark(model)
    result = RewritePass([SWISH])(model)
    assert operators(model.graph) == ["Swish", "Relu"]
    value = model.graph.node(0).outputs[0]
    assert value.name == "m"
    assert provenance.of(value).sources == ("m", "s")
    assert provenance.of(value).equal
    assert provenance.of(value).rules == ("swish",)
    assert [(a.rule, a.sources) for a in result.applied] == [("swish", ("m",))]
    check(model)


def test_leaves_operators_that_the_opset_lacks_or_the_target_refuses() -> None:
    text = """<ir_version: 10, opset_import: ["": %d]> g (float[2] x) => (float[2] y) {
        s = Sigmoid(x)  y = Mul(s, x) }"""
    old = ir.from_onnx_text(text % 20)
    assert not RewritePass([SWISH])(old).modified
    new = ir.from_onnx_text(text % 24)
    seen = []
    assert not RewritePass([SWISH], accepts=lambda *operator: bool(seen.append(operator)))(new).modified
    assert set(seen) == {("", "Swish", 24)}
    assert len(new.graph.inputs[0].uses()) == 2, "a refused replacement must not stay a consumer"


def test_inner_values_with_other_consumers_block_unless_kept_shared() -> None:
    text = """<ir_version: 10, opset_import: ["": 24]> g (float[2] x) => (float[2] y, float[2] z) {
        s = Sigmoid(x)  y = Mul(x, s)  z = Neg(s) }"""
    blocked = ir.from_onnx_text(text)
    assert not RewritePass([SWISH])(blocked).modified
    shared = ir.from_onnx_text(text)
    keep = rewrite("swish", SWISH.pattern, SWISH.replacement, keep_shared=True)
    assert RewritePass([keep])(shared).modified
    assert sorted(operators(shared.graph)) == ["Neg", "Sigmoid", "Swish"]
    check(shared)


def test_a_graph_output_that_becomes_an_input_keeps_its_name() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float[2] y, float[2] z) {
        a = Neg(x)  y = Neg(a)  b = Relu(x)  z = Relu(b) }"""
    )
    RewritePass([DOUBLE_NEG, RELU_RELU])(model)
    assert operators(model.graph) == ["Identity", "Relu", "Identity"]
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    check(model)


def test_chains_settle_in_one_call() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (float[2] x) => (float[2] y) {
        a = Neg(x)  b = Neg(a)  c = Neg(b)  d = Neg(c)  y = Relu(d) }"""
    )
    assert len(RewritePass([DOUBLE_NEG])(model).applied) == 2
    assert operators(model.graph) == ["Relu"]


def test_a_rule_that_matches_its_own_result_ends() -> None:
    swap = rewrite("swap", lambda op, x, y: op.Add(x, y), lambda op, x, y: op.Add(y, x))
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (float[2] x, float[2] z) => (float[2] y) { y = Add(x, z) }"""
    )
    assert len(RewritePass([swap])(model).applied) == 1
    assert [v.name for v in model.graph.node(0).inputs] == ["z", "x"]


def test_subgraphs_and_functions_are_rewritten() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 24, "local": 1]> g (bool c, float[2] x) => (float[2] y) {
        t = local.f(x)
        y = If(c) <then_branch = a () => (float[2] p) { n = Sigmoid(t)  p = Mul(t, n) },
                   else_branch = b () => (float[2] q) { q = Relu(t) }>
        }
        <domain: "local", opset_import: ["": 24]> f (u) => (v) { w = Sigmoid(u)  v = Mul(u, w) }"""
    )
    result = RewritePass([SWISH])(model)
    assert len(result.applied) == 2
    assert operators(model.graph.node(1).attributes["then_branch"].as_graph()) == ["Swish"]
    assert operators(next(iter(model.functions.values()))) == ["Swish"]
    check(model)


def test_new_constants_become_initializers_and_in_functions_constant_nodes() -> None:
    shift = rewrite(
        "shift",
        lambda op, x: op.Softsign(x),
        lambda op, x: op.Add(x, op.constant(np.float32(1).reshape(1), "shift")),
    )
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18, "local": 1]> g (float[1] shift) => (float[1] y) {
        t = Softsign(shift)  y = local.f(t) }
        <domain: "local", opset_import: ["": 18]> f (u) => (v) { v = Softsign(u) }"""
    )
    RewritePass([shift])(model)
    assert list(model.graph.initializers) == ["shift_1"]
    assert operators(next(iter(model.functions.values()))) == ["Constant", "Add"]
    check(model)


def two_outputs(op, x, y):
    total = op.Add(x, y)
    return op.Relu(total), total


def test_several_outputs_are_put_before_their_first_consumer_or_left() -> None:
    fused = rewrite("fused", two_outputs, lambda op, x, y: op.Fused(x, y, _domain="porting", _outputs=2))
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (float[2] x, float[2] z) => (float[2] y, float[2] n) {
        s = Add(x, z)  n = Neg(s)  y = Relu(s) }"""
    )
    assert RewritePass([fused])(model).modified
    assert operators(model.graph) == ["Fused", "Neg"]
    assert model.opset_imports["porting"] == 1
    onnx.checker.check_model(ir.to_proto(model))
    cyclic = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (float[2] x, float[2] z) => (float[2] y) {
        s = Add(x, z)  n = Neg(s)  r = Relu(s)  t = Add(r, n)  y = Relu(t) }"""
    )
    before = operators(cyclic.graph)
    loop = rewrite(
        "loop",
        lambda op, x, y: (lambda s: (op.Relu(op.Add(op.Relu(s), y)), s))(op.Add(x, x)),
        lambda op, x, y: op.Fused(x, y, _domain="porting", _outputs=2),
    )
    cyclic.graph.node(0).replace_input_with(1, cyclic.graph.inputs[0])
    assert not RewritePass([loop])(cyclic).modified, "n depends on s and feeds the match: fusing would make a cycle"
    assert operators(cyclic.graph) == before


def test_patterns_with_several_output_nodes_are_refused() -> None:
    split = rewrite("split", lambda op, x: (op.Relu(x), op.Neg(x)), lambda op, x: (x, x))
    with pytest.raises(ValueError, match="2 output nodes"):
        RewritePass([split])


def test_an_overridable_default_is_no_constant() -> None:
    half = rewrite("half", lambda op, x: op.Mul(x, 0.5), lambda op, x: op.Neg(x))
    text = """<ir_version: 10, opset_import: ["": 18]> g (float[2] x%s) => (float[2] y) <float h = {0.5}> {
        y = Mul(x, h) }"""
    assert RewritePass([half])(ir.from_onnx_text(text % "")).modified
    assert not RewritePass([half])(ir.from_onnx_text(text % ", float h")).modified


def chain(length: int) -> ir.Model:
    x = ir.val("x", ir.DataType.FLOAT, [2])
    value, nodes = x, []
    for _ in range(length // 3):
        gate = ir.node("Sigmoid", [value])
        nodes += [gate, ir.node("Mul", [value, gate.outputs[0]])]
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], x]))
        value = nodes[-1].outputs[0]
    graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 24}, name="chain")
    return ir.Model(graph, ir_version=10)


def test_work_grows_linearly(count_calls) -> None:
    step = RewritePass([SWISH, RELU_RELU, DOUBLE_NEG] * 5)
    short, long = chain(300), chain(1200)
    calls = [count_calls(lambda model=model: step(model)) for model in (short, long)]
    assert [operators(model.graph).count("Swish") for model in (short, long)] == [100, 400]
    assert calls[1] < 4.2 * calls[0], calls


@pytest.mark.parametrize(
    "careless",
    [
        rewrite("one", lambda op, x: op.Neg(op.Abs(x)), lambda op, x: op.HardSigmoid(x)),
        rewrite("two", lambda op, x: op.Neg(op.Abs(x)), lambda op, x: op.Add(x, op.constant(np.float32([1])))),
    ],
    ids=["no integers", "no two dtypes"],
)
def test_leaves_what_the_new_operator_does_not_take(careless: Rewrite) -> None:
    text = """<ir_version: 10, opset_import: ["": 18]> g (%s[2] x) => (%s[2] y) { a = Abs(x)  y = Neg(a) }"""
    integers = ir.from_onnx_text(text % ("int32", "int32"))
    assert not RewritePass([careless])(integers).modified
    assert operators(integers.graph) == ["Abs", "Neg"]
    assert len(integers.graph.inputs[0].uses()) == 1, "the refused form must not stay a consumer"
    assert RewritePass([careless])(ir.from_onnx_text(text % ("float", "float"))).modified
