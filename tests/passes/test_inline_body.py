from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from porting_kernels.errors import PortingError
from porting_passes.builder import BuildError
from porting_passes.decomposition import build, decompose_node
from porting_passes.inline_body import body_of, inlining
from porting_passes.operators import add_bodies
from porting_passes.splice import Names

X = "(float[2, 3] x) => (float[2, 3] y)"


def model_of(opset: int, body: str, signature: str = X, **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g {signature} {{ {body} }}'
    return ir.from_proto(ir.to_proto(ir.from_onnx_text(text, initializers=tensors)))


def inlined(model: ir.Model) -> list[str]:
    node = next(iter(model.graph))
    opset = model.opset_imports[""]
    candidate = inlining(node, opset, model.functions)
    assert candidate is not None
    decompose_node(node, candidate, opset, Names(model))
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (18, "y = Elu<alpha = 0.5>(x)"),
        (18, "y = Elu(x)"),
        (18, "y = Selu(x)"),
        (18, "y = ThresholdedRelu(x)"),
        (18, "y = HardSigmoid<alpha = 0.3>(x)"),
        (18, "y = Softmax<axis = 0>(x)"),
        (13, "y = LogSoftmax(x)"),
        (18, "y = MeanVarianceNormalization<axes = [0, 1]>(x)"),
        (14, "y = HardSwish(x)"),
        (18, "y = Mish(x)"),
        (20, 'y = Gelu<approximate = "tanh">(x)'),
        (24, "y = Swish<alpha = 1.5>(x)"),
        (17, "y = LayerNormalization(x, w, b)"),
        (18, "y = LayerNormalization<axis = 0>(x, v)"),
        (23, "y = RMSNormalization(x, w)"),
        (13, "y = Clip(x, , low)"),
    ],
)
def test_the_standards_own_definition_gives_what_the_runtime_gives(
    opset, body, run_onnxruntime, random_feeds, check_model
) -> None:
    constants = {
        "w": np.array([0.5, 2, 1], np.float32),
        "b": np.array([1, 0, -1], np.float32),
        "v": np.arange(6, dtype=np.float32).reshape(2, 3),
        "low": np.array(0.5, np.float32),
    }
    used = {name: array for name, array in constants.items() if f", {name}" in body}
    model = model_of(opset, body, **used)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    operator = next(iter(model.graph)).op_type
    assert operator not in inlined(model)
    check_model(model)
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=2e-5, atol=2e-6)


def test_what_is_constant_in_a_body_is_computed() -> None:
    assert inlined(model_of(18, "y = Elu(x)")) == ["Less", "Exp", "Sub", "Mul", "Where"]


def test_a_body_with_control_flow_is_refused_and_leaves_no_trace() -> None:
    model = model_of(11, "y = Range(a, b, a)", "(float a, float b) => (float[n] y)")
    node = next(iter(model.graph))
    candidate = inlining(node, 11, {})
    assert candidate is not None
    with pytest.raises(BuildError, match="control flow"):
        build(node, candidate, 11)
    assert all(len(value.uses()) <= 2 for value in model.graph.inputs)


def test_operators_without_a_body_have_none() -> None:
    node = next(iter(model_of(13, "y = Relu(x)").graph))
    assert body_of(node, 13, {}) is None
    assert inlining(node, 13, {}) is None


def test_a_body_must_mean_the_same_at_the_opset() -> None:
    node = next(iter(model_of(18, "y = Softplus(x)").graph))
    found = body_of(node, 18, {})
    assert found is not None
    for inner in found:
        now = onnx.defs.get_schema(inner.op_type, 18).since_version
        assert now == onnx.defs.get_schema(inner.op_type, found.opset_imports[""]).since_version


def test_functions_of_the_model_and_composite_operators_come_first() -> None:
    text = """<ir_version: 10, opset_import: ["": 18, "local": 1]> g (float[2] x) => (float[2] y) {
        y = local.Twice<factor = 3.0>(x) }
        <domain: "local", opset_import: ["": 18]> Twice<factor: float = 2.0>(a) => (b) {
        f = Constant<value_float: float = @factor>() b = Mul(a, f) }"""
    model = ir.from_onnx_text(text)
    assert inlined(model) == ["Mul"]
    node = ir.Node("porting", "Quantize", [model.graph.inputs[0]], [ir.AttrFloat32("scale", 2.0)])
    assert body_of(node, 18, {}) is not None


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize(
    "text",
    [
        "(float[4, 8] x) => (float[4, 4] y) { y = porting.SwiGLU<interleaved = 1>(x) }",
        "(float[4, 8] x, float[8] w) => (float[4, 8] y) { y = porting.RMSNorm<weight_offset = 1.0>(x, w) }",
        "(float[4, 8] x, float[8] w) => (float[4, 8] y, float[4, 8] s) { y, s = porting.AddRMSNorm(x, x, w) }",
        """(float[4, 8] x, float[8] b) => (float[4, 3] w, int64[4, 3] i) {
            w, i = porting.GatingTopK<k = 3, groups = 4, k_group = 2, score = "sigmoid">(x, b) }""",
    ],
    ids=["SwiGLU", "RMSNorm", "AddRMSNorm", "GatingTopK"],
)
def test_composite_operators_without_control_flow_become_standard_ones(
    text, opset, run_onnxruntime, random_feeds, check_model
) -> None:
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}, "porting": 1]> g {text}')
    feeds = random_feeds(model)
    whole = model.clone()
    add_bodies(whole)
    before = run_onnxruntime(whole, feeds)
    inlined(model)
    assert {node.domain for node in model.graph} == {""}
    check_model(model)
    for name, value in run_onnxruntime(model, feeds).items():
        np.testing.assert_array_equal(value, before[name])


def test_an_opset_that_cannot_say_a_composite_operator_has_no_body() -> None:
    text = "(float[4, 8] x) => (float[4, 4] y) { y = porting.SwiGLU(x) }"
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 13, "porting": 1]> g {text}')
    assert body_of(next(iter(model.graph)), 13, {}) is None
    with pytest.raises(PortingError, match=r"porting\.SwiGLU"):
        add_bodies(model)
