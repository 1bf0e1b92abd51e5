from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import pytest

from porting import backends
from porting_passes import legalize, provenance
from porting_passes.builder import BuildError
from porting_passes.convert_opset import ConvertOpset
from porting_passes.cost import node_cost
from porting_passes.decomposition import build
from porting_passes.decompositions import by_operator
from porting_passes.infer_shapes import InferShapes
from porting_passes.legality import Legal, check
from porting_passes.legalize import Legalize
from porting_passes.operator_set import OperatorSet
from porting_passes.splice import discard


def row(
    operator: str, *, domain: str = "", inputs: list[str] | None = None, limits: Iterable[tuple[str, str]] = ()
) -> dict:
    """A row that takes any dtypes, with (text, expression) limits."""
    return {
        "operator": operator,
        "domain": domain,
        "opset": [1, 99],
        "inputs": None if inputs is None else [{"name": name} for name in inputs],
        "outputs": None,
        "constraints": [{"text": text, "expression": how, "source": f"{operator}, page 7"} for text, how in limits],
        "source": ["the manual"],
        "evidence": "doc",
    }


def accepting(*rows: str | dict, unlisted: str = "illegal", refused: Iterable[str] = ()) -> OperatorSet:
    return OperatorSet.from_json(
        {
            "surface": "made up",
            "opset": 18,
            "unlisted": unlisted,
            "unlisted_reason": {"reason": "not in the manual", "source": "the manual"},
            "rows": [row(entry) if isinstance(entry, str) else entry for entry in rows],
            "refused": {name: {"reason": "not on this chip", "source": "the manual"} for name in refused},
        }
    )


def all_but(*operators: str) -> OperatorSet:
    return accepting(unlisted="legal", refused=operators)


def model_of(
    body: str,
    inputs: str = "float[2,3] x",
    outputs: str = "float[2,3] y",
    *,
    opset: int = 18,
    weights: str = "",
) -> ir.Model:
    """A model whose values know their dtypes, shapes and places (module ``net.<value>``)."""
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}'
    model = ir.from_onnx_text(text)
    InferShapes()(model)
    for node in model.graph:
        for value in node.outputs:
            provenance.set_(value, provenance.Provenance((value.name,), equal=True, module=f"net.{value.name}"))
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.fixture
def builds(monkeypatch) -> list[str]:
    """The names of the decompositions that were built while searching."""
    seen = []

    def counted(node, candidate, opset):
        seen.append(candidate.name)
        return build(node, candidate, opset)

    monkeypatch.setattr(legalize, "build", counted)
    return seen


# -- which form ------------------------------------------------------------------------------------------------------


def test_legal_nodes_stay() -> None:
    model = model_of("a = Abs(x) y = Relu(a)")
    before = ir.to_proto(model)
    result = Legalize(accepting("Abs", "Relu"))(model)
    assert not result.modified
    assert (result.applied, result.failures, result.allowed) == ([], [], [])
    assert ir.to_proto(model) == before


CHOICES = {
    "Abs": "y = Abs(x)",
    "Neg": "y = Neg(x)",
    "Sub": "z = Relu(x) y = Sub(x, z)",
    "Pow": "y = Pow(x, two)",
    "Clip": "y = Clip(x, low, high)",
    "Max": "z = Relu(x) y = Max(x, z)",
    "Sign": "y = Sign(x)",
    "LeakyRelu": "y = LeakyRelu(x)",
    "Elu": "y = Elu(x)",
    "HardSigmoid": "y = HardSigmoid(x)",
    "Sigmoid": "y = Sigmoid(x)",
    "Tanh": "y = Tanh(x)",
    "Softplus": "y = Softplus(x)",
    "Softmax": "y = Softmax(x)",
    "ReduceL2": "z = ReduceL2(x, axes) y = Mul(x, z)",
    "ReduceMean": "z = ReduceMean(x, axes) y = Mul(x, z)",
    "MatMul": "y = MatMul(x, square)",
    "Gemm": "y = Gemm<alpha = 0.5>(x, square, x)",
    "Flatten": "y = Flatten(x)",
}
CONSTANTS = """<float two = {2}, float low = {-0.5}, float high = {0.75}, int64[1] axes = {1},
    float[3,3] square = {1, 2, 3, 4, 5, 6, 7, 8, 10}>"""


@pytest.mark.parametrize("op_type", CHOICES)
def test_the_cheapest_form_is_taken(op_type, run_onnxruntime, random_feeds) -> None:
    """Against all candidates, priced here one by one; every operator but the one itself is legal."""
    model = model_of(CHOICES[op_type], weights=CONSTANTS)
    node = next(node for node in model.graph if node.op_type == op_type)
    node_output, operator_set, prices = node.outputs[0].name, all_but(op_type), {}
    for candidate in by_operator()["", op_type]:
        if candidate.last_resort or candidate.applies(node, 18) is not None:
            continue
        try:
            builder, _ = build(node, candidate, 18)
        except BuildError:
            continue
        if all(isinstance(check(new, operator_set, 18), Legal) for new in builder.nodes):
            prices[candidate.name] = sum(node_cost(new, {}) for new in builder.nodes)
        discard(builder.nodes)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    result = Legalize(operator_set)(model)
    assert result.failures == []
    assert op_type not in operators(model)
    applied = result.applied[0]
    assert prices[applied.rule] == min(prices.values())
    assert applied.sources == (node_output,)
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=2e-5, atol=2e-6)


def test_a_dearer_form_where_the_cheapest_is_not_legal() -> None:
    model = model_of("y = Neg(x)")
    Legalize(all_but("Neg"))(model)
    assert operators(model) == ["Mul"]
    model = model_of("y = Neg(x)")
    Legalize(all_but("Neg", "Mul"))(model)
    assert operators(model) == ["Sub"]


def test_forms_inside_forms(check_model, run_onnxruntime, random_feeds) -> None:
    """Mish: x * tanh(softplus(x)), with neither Softplus, Tanh nor Sigmoid."""
    model = model_of("y = Mish(x)")
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    few = accepting("Mul", "Add", "Sub", "Div", "Exp", "Log", "Abs", "Neg", "Relu", "Max")
    result = Legalize(few)(model)
    assert result.failures == []
    assert set(operators(model)) <= {row.operator for row in few.rows}
    assert result.applied[0].rule == "mish_by_softplus"
    assert len(result.applied) > 2
    check_model(model)
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=1e-5, atol=1e-6)
    (y,) = model.graph.outputs
    assert y.name == "y"
    assert provenance.of(y).sources == ("y",)
    assert provenance.of(y).equal
    assert provenance.of(y).rules[0] == "mish_by_softplus"
    assert all(provenance.place(v) == "net.y" for node in model.graph for v in node.outputs)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_layer_normalization_on_a_chip_without_it(axis, bias, run_onnxruntime, random_feeds, check_model) -> None:
    """By name first, at the model's opset; then every node that came out is judged at the surface's."""
    surface = backends.get("cambricon-mlu370").surfaces["magicmind"]
    body = f"y = LayerNormalization<axis = {axis}>(x, s{bias})"
    shape = "4" if axis == -1 else "3,4"
    model = model_of(body, f"float[2,3,4] x, float[{shape}] s, float[{shape}] b", "float[2,3,4] y", opset=17)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    named = Legalize(surface.operator_set, by_name_at=surface.opset)(model)
    assert named.failures == []
    assert named.applied[0].rule == "layer_norm_by_mean"
    ConvertOpset(surface.opset)(model)
    result = Legalize(surface.operator_set)(model)
    assert result.failures == []
    for node in model.graph:
        assert isinstance(check(node, surface.operator_set, surface.opset), Legal), node.op_type
    check_model(model)
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=1e-5, atol=1e-5)


def test_a_last_resort_is_taken_where_nothing_else_helps() -> None:
    """Div by Reciprocal excludes what 1/y alone overflows; a second form would be preferred, but there is none."""
    (applied,) = Legalize(accepting("Reciprocal", "Mul", "Exp"))(model_of("z = Exp(x) y = Div(x, z)")).applied
    assert applied.rule == "div_by_reciprocal"
    assert by_operator()["", "Div"][0].last_resort


def test_a_last_resort_yields_to_a_dearer_form(monkeypatch) -> None:
    cheap, dear = (
        next(one for one in by_operator()["", "Abs"] if one.name == name) for name in ("abs_by_max", "abs_by_relu")
    )
    (applied,) = Legalize(all_but("Abs"))(model_of("y = Abs(x)")).applied
    assert applied.rule == cheap.name
    table = {("", "Abs"): [dataclasses.replace(cheap, last_resort=True), dear]}
    monkeypatch.setattr(legalize, "by_operator", lambda: table)
    (applied,) = Legalize(all_but("Abs"))(model_of("y = Abs(x)")).applied
    assert applied.rule == dear.name


def test_two_forms_that_lead_to_each_other_end() -> None:
    model = model_of("y = Greater(x, z)", "float[3] x, float[3] z", "bool[3] y")
    (failure,) = Legalize(all_but("Greater", "Less"))(model).failures
    assert [name for name, _ in failure.candidates] == ["greater_swapped"]
    assert "Less is illegal" in dict(failure.candidates)["greater_swapped"]


LOCAL = """<ir_version: 8, opset_import: ["": 18, "my": 1]> g (float[2,3] x) => (float[2,3] y) {
    y = my.twice_abs(x)
}
<domain: "my", opset_import: ["": 18]> twice_abs (v) => (r) { a = Abs(v) r = Add(a, a) }"""


def test_a_function_of_the_model_is_its_own_last_form(run_onnxruntime, random_feeds) -> None:
    model = ir.from_onnx_text(LOCAL)
    feeds = random_feeds(model)
    assert Legalize(accepting("Max", "Neg", "Add"))(model).failures == []
    assert sorted(operators(model)) == ["Add", "Max", "Neg"]
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], 2 * np.abs(feeds["x"]))


def test_a_function_that_the_surface_takes_stays() -> None:
    model = ir.from_onnx_text(LOCAL)
    assert not Legalize(accepting(row("twice_abs", domain="my")))(model).modified


def test_a_function_whose_body_is_illegal_says_what_is_missing() -> None:
    (failure,) = Legalize(accepting("Add"))(ir.from_onnx_text(LOCAL)).failures
    assert failure.operator == "my.twice_abs"
    ((_, why),) = failure.candidates
    assert "Abs is illegal" in why


def test_inside_a_branch(run_onnxruntime) -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[3] x, bool c) => (float[3] y) {
        y = If (c) < then_branch = then () => (float[3] t) { t = Neg(x) },
                     else_branch = else () => (float[3] e) { e = Identity(x) }> }"""
    model = ir.from_onnx_text(text)
    assert Legalize(accepting("If", "Mul", "Identity"))(model).failures == []
    assert "Neg" not in [node.op_type for node in model.graph.all_nodes()]
    x = np.array([1, -2, 0], np.float32)
    np.testing.assert_array_equal(run_onnxruntime(model, {"x": x, "c": np.array(True)})["y"], -x)


# -- what it costs ---------------------------------------------------------------------------------------------------


def layers(count: int, body: str = "h{i} = Mish(v{i}) v{n} = LayerNormalization(h{i}, s)") -> ir.Model:
    text = " ".join(body.format(i=i, n=i + 1) for i in range(count))
    return model_of(f"v0 = Identity(x) {text} y = Identity(v{count})", opset=18, weights="<float[3] s = {1, 2, 3}>")


RELUS = " ".join(f"r{{i}}_{k + 1} = Relu(r{{i}}_{k})" for k in range(18)) + " v{n} = Relu(r{i}_18)"


def test_equal_layers_cost_one_search(builds) -> None:
    few = all_but("Mish", "LayerNormalization", "Softplus")
    Legalize(few)(layers(1))
    single = list(builds)
    assert single
    builds.clear()
    model = layers(58)
    result = Legalize(few)(model)
    assert builds == single
    assert len(result.applied) % 58 == 0
    assert not {"Mish", "LayerNormalization", "Softplus"} & set(operators(model))


def test_another_shape_attribute_or_small_constant_is_another_search(builds) -> None:
    body = "a = Elu(x) b = Elu<alpha = 2.0>(x) c = Elu(z) y = Add(a, b)"
    Legalize(all_but("Elu"))(model_of(body, "float[2,3] x, float[4] z", "float[2,3] y, float[4] c"))
    assert len(builds) == 3
    builds.clear()
    model = model_of("a = Clip(x, low) b = Clip(a, two) c = Clip(b, low) y = Neg(c)", weights=CONSTANTS)
    Legalize(all_but("Clip"))(model)
    assert len(builds) == 2 * len(set(builds))


def test_twenty_thousand_nodes_need_a_bounded_number_of_searches(builds) -> None:
    model = layers(1_000, "n{i} = Neg(v{i}) r{i}_0 = Abs(n{i}) " + RELUS)
    result = Legalize(all_but("Neg", "Abs"))(model)
    assert len(model.graph) > 20_000
    assert len(result.applied) >= 2_000
    # At most once for each candidate of each operator met on the way.
    assert len(builds) == len(set(builds))
    assert len(builds) < 20


# -- failures --------------------------------------------------------------------------------------------------------


def test_all_failures_are_collected_and_the_graph_stays_as_it_was() -> None:
    model = model_of("a = Sin(x) b = Neg(a) c = Erf(b) d = Cos(c) y = Abs(d)")
    before = ir.to_proto(model)
    result = Legalize(accepting("Mul", "Max", "Neg"))(model)
    assert not result.modified
    assert result.applied == []
    assert ir.to_proto(model) == before
    assert [failure.op_type for failure in result.failures] == ["Sin", "Erf", "Cos"]
    assert [failure.place for failure in result.failures] == ["net.a", "net.c", "net.d"]


def test_searching_leaves_no_trace_in_the_graph() -> None:
    """Candidates are built on the graph's own values and must not stay behind as consumers."""
    model = model_of("a = Erf(x) y = Sin(a)")
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    uses = [len(value.uses()) for value in values]
    assert Legalize(accepting("Mul"))(model).failures
    assert [len(value.uses()) for value in values] == uses


def test_a_failure_says_everything() -> None:
    limit = ("rows of at most 8", "dim(X, 1) <= 8")
    model = model_of("a = Relu(x) y = Abs(a)", "float[2,9] x", "float[2,9] y")
    (failure,) = Legalize(accepting("Relu", row("Abs", inputs=["X"], limits=[limit]), "Add"))(model).failures
    assert failure.node == "y"
    assert failure.operator == failure.op_type == "Abs"
    assert failure.verdict == "illegal"
    assert failure.place == "net.y"
    (reason,) = failure.reasons
    assert reason.rule == "rows of at most 8"
    assert reason.source == "Abs, page 7"
    assert "9" in str(reason.met)
    assert [name for name, _ in failure.candidates] == [one.name for one in by_operator()["", "Abs"]]
    assert all(why for _, why in failure.candidates)
    assert "Max is illegal" in dict(failure.candidates)["abs_by_max"]


def test_a_node_of_a_candidate_that_only_its_own_body_could_replace_is_judged_too() -> None:
    """Clip, as a part of HardSigmoid, has operands that no graph has named yet."""
    (failure,) = Legalize(accepting("Mul", "Add"))(model_of("y = HardSigmoid(x)")).failures
    assert any("Clip is illegal" in why for _, why in failure.candidates)


def test_why_a_candidate_does_not_apply_is_told() -> None:
    model = model_of(
        "y, m = Dropout(x, r, t)", "float[2,3] x, bool t", "float[2,3] y, bool[2,3] m", weights="<float r = {0.5}>"
    )
    (failure,) = Legalize(accepting("Identity"))(model).failures
    assert failure.candidates
    assert all(why for _, why in failure.candidates)


def test_a_legal_form_under_one_limit_and_none_under_another() -> None:
    """The rule for the replacement is judged on the replacement's own shapes."""
    for extent, legal in ((8, True), (9, False)):
        model = model_of("y = Neg(x)", f"float[{extent}] x", f"float[{extent}] y")
        narrow = row("Mul", inputs=["A", "B"], limits=[("at most 8", "dim(A, 0) <= 8")])
        assert (Legalize(accepting(narrow))(model).failures == []) == legal


@pytest.mark.parametrize(
    ("dims", "verdict"), [({"n": (1, 8)}, None), ({"n": (1, 16)}, "illegal"), ({}, "unknown"), (None, "unknown")]
)
def test_symbols_count_with_their_ranges(dims, verdict) -> None:
    model = model_of("y = Relu(x)", "float[n] x", "float[n] y")
    limited = row("Relu", inputs=["X"], limits=[("at most 8", "dim(X, 0) <= 8")])
    failures = Legalize(accepting(limited), dims=dims)(model).failures
    assert [failure.verdict for failure in failures] == ([verdict] if verdict else [])


# -- what is not known -----------------------------------------------------------------------------------------------


def test_unknown_is_a_failure_of_its_own_kind() -> None:
    model = model_of("a = Sin(x) y = Cos(a)")
    result = Legalize(accepting("Relu", unlisted="unknown", refused=["Cos"]))(model)
    assert [(failure.op_type, failure.verdict) for failure in result.failures] == [
        ("Sin", "unknown"),
        ("Cos", "illegal"),
    ]
    assert result.failures[0].reasons[0].source == "the manual"


def test_allowed_unknown_operators_are_let_through_and_listed() -> None:
    model = model_of("a = Sin(x) y = Neg(a)")
    result = Legalize(accepting("Mul", unlisted="unknown"), allow_unknown={"Sin"})(model)
    assert result.failures == []
    assert [(one.op_type, one.verdict, one.place) for one in result.allowed] == [("Sin", "unknown", "net.a")]
    assert operators(model) == ["Sin", "Mul"]


def test_a_legal_form_is_preferred_to_letting_through() -> None:
    model = model_of("y = Neg(x)")
    result = Legalize(accepting("Mul", unlisted="unknown"), allow_unknown={"Neg"})(model)
    assert operators(model) == ["Mul"]
    assert result.allowed == []


def test_what_is_illegal_is_never_let_through() -> None:
    result = Legalize(all_but("Sin"), allow_unknown={"Sin"})(model_of("y = Sin(x)"))
    assert [failure.verdict for failure in result.failures] == ["illegal"]
    assert result.allowed == []


def test_an_unknown_operator_inside_a_form_may_be_allowed() -> None:
    model = model_of("y = Neg(x)")
    unknown = accepting("Add", unlisted="unknown", refused=["Neg"])
    assert [failure.op_type for failure in Legalize(unknown)(model).failures] == ["Neg"]
    result = Legalize(unknown, allow_unknown={"Mul"})(model)
    assert result.failures == []
    assert operators(model) == ["Mul"]


# -- by name, before the opset is converted --------------------------------------------------------------------------


def test_by_name_only_operators_that_the_later_opset_lacks_must_go() -> None:
    model = model_of("a = Gelu(x) b = Sin(a) y = Abs(b)", opset=20)
    result = Legalize(accepting("Erf", "Mul", "Add", "Max", "Neg"), by_name_at=11)(model)
    assert result.failures == []
    assert "Gelu" not in operators(model), "opset 11 has none"
    assert "Abs" not in operators(model), "the surface has none, and a form of what it has exists"
    assert "Sin" in operators(model), "judged at the surface's opset, later"


def test_by_name_an_operator_without_a_form_is_a_failure() -> None:
    model = model_of("y = GridSample(x, z)", "float[1,1,4,4] x, float[1,2,2,2] z", "float[1,1,2,2] y", opset=20)
    before = ir.to_proto(model)
    (failure,) = Legalize(accepting("GridSample"), by_name_at=11)(model).failures
    assert (failure.op_type, failure.verdict) == ("GridSample", "illegal")
    assert "opset 11" in str(failure.reasons[0].allowed)
    assert ir.to_proto(model) == before


def test_by_name_limits_do_not_count_yet() -> None:
    limited = row("Relu", inputs=["X"], limits=[("never", "dim(X, 0) <= 0")])
    assert not Legalize(accepting(limited), by_name_at=18)(model_of("y = Relu(x)")).modified


def test_by_name_a_form_that_the_conversion_refuses_goes_before_it() -> None:
    """Scales along an axis came with opset 13: at 11 only the arithmetic is left."""
    weights = "<float[3] s = {0.5, 1.0, 2.0}, int8[3] o = {0, 1, 2}>"
    model = model_of("y = QuantizeLinear<axis = 1>(x, s, o)", outputs="int8[2,3] y", opset=13, weights=weights)
    surface = accepting("QuantizeLinear", "Div", "Round", "Add", "Clip", "Cast", "Unsqueeze")
    result = Legalize(surface, by_name_at=11)(model)
    assert result.failures == []
    assert "QuantizeLinear" not in operators(model)


# -- ends and records ------------------------------------------------------------------------------------------------


def test_an_identity_that_the_surface_refuses_is_reported_where_an_output_needs_it() -> None:
    (failure,) = Legalize(all_but("Identity"))(model_of("y = Identity(x)")).failures
    assert failure.op_type == "Identity"


def test_forms_that_share_their_price_do_not_lead_in_circles() -> None:
    model = model_of("y = GlobalMaxPool(x)", "float[1,2,4,4] x", "float[1,2,1,1] y")
    result = Legalize(accepting("MaxPool"))(model)
    assert result.failures == []
    assert operators(model) == ["MaxPool"]


def test_an_unknown_operator_that_only_a_form_brings_in_is_listed() -> None:
    model = model_of("y = Neg(x)")
    result = Legalize(accepting("Add", unlisted="unknown", refused=["Neg"]), allow_unknown={"Mul"})(model)
    assert [(one.op_type, one.verdict) for one in result.allowed] == [("Mul", "unknown")]


def test_an_allowed_node_is_not_replaced_by_other_unknown_ones() -> None:
    model = model_of("y = Neg(x)")
    result = Legalize(accepting("Add", unlisted="unknown"), allow_unknown={"Neg", "Mul", "Sub"})(model)
    assert operators(model) == ["Neg"]
    assert [one.op_type for one in result.allowed] == ["Neg"]


def test_batched_products_are_cut_only_when_nothing_else_helps(run_onnxruntime, random_feeds) -> None:
    matrices = row("MatMul", inputs=["A", "B"], limits=[("matrices only", "rank(A) == 2")])
    model = model_of("y = MatMul(x, z)", "float[2,3,4] x, float[2,4,5] z", "float[2,3,5] y")
    feeds = random_feeds(model)
    expected = run_onnxruntime(model, feeds)["y"]
    result = Legalize(accepting(matrices, "Reshape", "Split", "Concat"))(model)
    assert result.failures == []
    assert operators(model).count("MatMul") == 2
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], expected, rtol=1e-5, atol=1e-6)
