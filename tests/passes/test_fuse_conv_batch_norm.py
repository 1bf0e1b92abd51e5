from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_passes import provenance
from porting_passes.fuse_conv_batch_norm import FuseConvBatchNorm

RNG = np.random.default_rng(5)
CHANNELS = 4
STATISTICS = {
    "scale": np.array([1.5, -2.0, 0.0, 0.25], np.float32),
    "offset": np.array([0.5, 1.0, -3.0, 0.0], np.float32),
    "mean": np.array([0.1, -0.2, 0.3, 4.0], np.float32),
    "variance": np.array([1.0, 0.25, 2.0, 1e-3], np.float32),
}


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model_of(
    body: str,
    *,
    inputs: str = "float[2,3,6,5] x",
    outputs: str = "float[2,4,h,k] y",
    opset: int = 15,
    **weights: np.ndarray,
) -> ir.Model:
    """``weights`` that the body names become initializers."""
    named = set(re.findall(r"\w+", body))
    tensors = [ir.tensor(array, name=name) for name, array in weights.items() if name in named]
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return ir.from_onnx_text(text, initializers=tensors)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


NORMALIZE = "y = BatchNormalization<epsilon = 0.001>(h, scale, offset, mean, variance)"


@pytest.mark.parametrize("opset", [11, 13, 15, 21])
@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "<pads = [1, 2, 0, 1], strides = [2, 1]>",
        "<dilations = [2, 1], kernel_shape = [3, 2]>",
        '<auto_pad = "SAME_UPPER">',
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_folds_into_weight_and_bias(opset, attributes, bias, run_onnxruntime, random_feeds, check_model) -> None:
    weights = {"w": noise(CHANNELS, 3, 3, 2)} | ({"b": noise(CHANNELS)} if bias else {}) | STATISTICS
    model = model_of(f"h = Conv{attributes}(x, w{', b' * bias}) {NORMALIZE}", opset=opset, **weights)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    result = FuseConvBatchNorm()(model)
    assert result.modified
    assert operators(model) == ["Conv"]
    assert [applied.rule for applied in result.applied] == [f"fuse_conv{'_bias' * bias}_batch_norm"]
    check_model(model)
    after = run_onnxruntime(model, feeds)["y"]
    assert result.applied[0].contract.violation(before, after) is None
    # The factors here are up to 47: sqrt(0.001 + 0.001); one rounding each of weight and product.
    np.testing.assert_allclose(after, before, rtol=2e-6, atol=2e-5)


def test_the_numbers_by_hand() -> None:
    """factor = 3 / sqrt(3.75 + 0.25) = 1.5: weight 2 * 1.5, bias (5 - 1) * 1.5 + 7."""
    one = {name: np.array([value], np.float32) for name, value in zip(STATISTICS, (3, 7, 1, 3.75), strict=True)}
    model = model_of(
        "h = Conv(x, w, b) y = BatchNormalization<epsilon = 0.25>(h, scale, offset, mean, variance)",
        inputs="float[1,1,4] x",
        outputs="float[1,1,4] y",
        w=np.array([[[2.0]]], np.float32),
        b=np.array([5.0], np.float32),
        **one,
    )
    FuseConvBatchNorm()(model)
    (conv,) = model.graph
    _, weight, bias = (value.const_value for value in conv.inputs)
    np.testing.assert_array_equal(weight, np.array([[[3.0]]], np.float32))
    np.testing.assert_array_equal(bias, np.array([13.0], np.float32))


@pytest.mark.parametrize("group", [2, 4])
def test_groups_scale_their_own_output_channels(group, run_onnxruntime, random_feeds) -> None:
    weights = {"w": noise(CHANNELS, 4 // group, 3, 3)} | STATISTICS
    model = model_of(f"h = Conv<group = {group}>(x, w) {NORMALIZE}", inputs="float[2,4,6,5] x", **weights)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    assert FuseConvBatchNorm()(model).modified
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=2e-6, atol=2e-5)


def test_one_and_three_axes(run_onnxruntime, random_feeds) -> None:
    for kernel, extents in (([3], "7"), ([2, 1, 3], "4,5,6")):
        weights = {"w": noise(CHANNELS, 3, *kernel)} | STATISTICS
        rank = ",".join("abc"[: len(kernel)])
        model = model_of(
            f"h = Conv(x, w) {NORMALIZE}", inputs=f"float[2,3,{extents}] x", outputs=f"float[2,4,{rank}] y", **weights
        )
        feeds = random_feeds(model)
        before = run_onnxruntime(model, feeds)["y"]
        assert FuseConvBatchNorm()(model).modified
        np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=2e-6, atol=2e-5)


W = {"w": noise(CHANNELS, 3, 2, 2)}
LEFT = {
    "the convolution is read elsewhere": (
        f"h = Conv(x, w) {NORMALIZE} z = Relu(h)",
        {"outputs": "float[2,4,h,k] y, float[2,4,h,k] z"},
    ),
    "the convolution is an output": (f"h = Conv(x, w) {NORMALIZE}", {"outputs": "float[2,4,h,k] y, float[2,4,h,k] h"}),
    "the weight is computed": (
        f"h = Conv(x, v) {NORMALIZE}",
        {"inputs": "float[2,3,6,5] x, float[4,3,2,2] v"},
    ),
    "the bias is computed": (f"h = Conv(x, w, v) {NORMALIZE}", {"inputs": "float[2,3,6,5] x, float[4] v"}),
    "the mean is computed": (
        "h = Conv(x, w) y = BatchNormalization(h, scale, offset, v, variance)",
        {"inputs": "float[2,3,6,5] x, float[4] v"},
    ),
    "training mode": (
        "h = Conv(x, w) y, m, v = BatchNormalization<training_mode = 1>(h, scale, offset, mean, variance)",
        {},
    ),
    "statistics of training are read": (
        "h = Conv(x, w) y, m, v, s, t = BatchNormalization(h, scale, offset, mean, variance)",
        {"opset": 11, "outputs": "float[2,4,h,k] y, float[4] s"},
    ),
    "no convolution": (
        "h = Relu(x) y = BatchNormalization(h, scale, offset, mean, variance)",
        {"inputs": "float[2,4,6,5] x"},
    ),
    "a negative variance": (
        f"h = Conv(x, w) {NORMALIZE}",
        {"variance": np.array([1, -0.5, 1, 1], np.float32)},
    ),
    "a statistic that is not finite": (
        f"h = Conv(x, w) {NORMALIZE}",
        {"mean": np.array([1, np.nan, 1, 1], np.float32)},
    ),
}


@pytest.mark.parametrize("why", LEFT)
def test_leaves_alone(why) -> None:
    body, options = LEFT[why]
    model = model_of(body, **{**W, **STATISTICS, **options})
    before = ir.to_proto(model)
    result = FuseConvBatchNorm()(model)
    assert not result.modified
    assert result.applied == []
    assert ir.to_proto(model) == before


def test_a_weight_that_the_caller_may_override_is_no_constant() -> None:
    model = model_of(f"h = Conv(x, w) {NORMALIZE}", **W, **STATISTICS)
    model.graph.inputs.append(model.graph.initializers["w"])
    assert not FuseConvBatchNorm()(model).modified


def test_a_weight_that_two_convolutions_share_is_folded_for_each(run_onnxruntime, random_feeds) -> None:
    body = f"h = Conv(x, w) {NORMALIZE} g = Conv(x, w) z = BatchNormalization(g, offset, scale, mean, variance)"
    model = model_of(body, outputs="float[2,4,h,k] y, float[2,4,h,k] z", **W, **STATISTICS)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)
    assert len(FuseConvBatchNorm()(model).applied) == 2
    assert operators(model) == ["Conv", "Conv"]
    after = run_onnxruntime(model, feeds)
    for name in ("y", "z"):
        np.testing.assert_allclose(after[name], before[name], rtol=2e-6, atol=5e-5)


def test_two_normalizations_in_a_row_both_fold(run_onnxruntime, random_feeds) -> None:
    parameters = "scale, offset, mean, variance"
    body = f"h = Conv(x, w) i = BatchNormalization(h, {parameters}) y = BatchNormalization(i, {parameters})"
    mild = STATISTICS | {"variance": np.array([1, 0.5, 2, 1.5], np.float32)}
    model = model_of(body, **W, **mild)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    FuseConvBatchNorm()(model)
    assert operators(model) == ["Conv"]
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_the_weight_keeps_its_dtype(dtype) -> None:
    name = {"float16": "float16", "bfloat16": "bfloat16", "float64": "double"}[np.dtype(dtype).name]
    weights = {key: array.astype(dtype) for key, array in {**W, **STATISTICS}.items()}
    model = model_of(
        f"h = Conv(x, w) {NORMALIZE}",
        opset=22,  # the first with a Conv of bfloat16
        inputs=f"{name}[2,3,6,5] x",
        outputs=f"{name}[2,4,5,4] y",
        **weights,
    )
    assert FuseConvBatchNorm()(model).modified
    (conv,) = model.graph
    factor = weights["scale"].astype(np.float64) / np.sqrt(weights["variance"].astype(np.float64) + np.float32(1e-3))
    expected = (weights["w"].astype(np.float64) * factor.reshape(-1, 1, 1, 1)).astype(dtype)
    assert conv.inputs[1].const_value.dtype == conv.inputs[0].dtype
    np.testing.assert_array_equal(conv.inputs[1].const_value.numpy(), expected)


def test_a_fold_that_would_overflow_is_left() -> None:
    """300 * 250 is beyond float16; the normalized result itself, 250 times a small sum, need not be."""
    weights = {
        "w": np.full((1, 1, 1, 1), 300, np.float16),
        "scale": np.array([250], np.float16),
        "offset": np.zeros(1, np.float16),
        "mean": np.zeros(1, np.float16),
        "variance": np.ones(1, np.float16),
    }
    model = model_of(
        f"h = Conv(x, w) {NORMALIZE}", inputs="float16[1,1,2,2] x", outputs="float16[1,1,2,2] y", **weights
    )
    before = ir.to_proto(model)
    assert not FuseConvBatchNorm()(model).modified
    assert ir.to_proto(model) == before


def test_the_surface_decides() -> None:
    model = model_of(f"h = Conv(x, w) {NORMALIZE}", **W, **STATISTICS)
    assert not FuseConvBatchNorm(accepts=lambda domain, op_type, version: op_type != "Conv")(model).modified
    assert FuseConvBatchNorm(accepts=lambda domain, op_type, version: op_type == "Conv")(model).modified


def test_the_result_stands_for_the_normalization() -> None:
    model = model_of(f"h = Conv(x, w) {NORMALIZE}", **W, **STATISTICS)
    for node in model.graph:
        name = node.outputs[0].name
        provenance.set_(node.outputs[0], provenance.Provenance((name,), equal=True, module=f"net.{name}"))
    result = FuseConvBatchNorm()(model)
    (y,) = model.graph.outputs
    assert y.name == "y"
    assert provenance.of(y).sources == ("y", "h")
    assert provenance.of(y).equal
    assert provenance.of(y).module == "net.y"
    assert result.applied[0].sources == ("y",)


def test_inside_a_branch(run_onnxruntime) -> None:
    text = """<ir_version: 8, opset_import: ["": 15]> g (float[1,1,3] x, bool c) => (float[1,1,3] y)
        <float[1,1,1] w = {2}, float[1] scale = {3}, float[1] offset = {1},
         float[1] mean = {4}, float[1] variance = {9}> {
        y = If (c) <
            then_branch = then () => (float[1,1,3] t) {
                h = Conv(x, w)  t = BatchNormalization<epsilon = 0.0>(h, scale, offset, mean, variance) },
            else_branch = else () => (float[1,1,3] e) { e = Identity(x) }> }"""
    model = ir.from_onnx_text(text)
    assert FuseConvBatchNorm()(model).modified
    x = np.array([[[1, 2, 3]]], np.float32)
    # (2x - 4) * 3 / 3 + 1
    np.testing.assert_array_equal(run_onnxruntime(model, {"x": x, "c": np.array(True)})["y"], 2 * x - 3)


@settings(max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
    st.floats(1e-6, 1e-2),
    st.integers(0, 2**32 - 1),
)
def test_any_fold_is_the_affine_map_of_the_convolution(outputs, inputs, kernel, bias, epsilon, seed) -> None:
    """In float64: weight and bias times factor, compared with the definition of the normalization."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((outputs, inputs, kernel)),
        **({"b": rng.standard_normal(outputs)} if bias else {}),
        "scale": rng.standard_normal(outputs),
        "offset": rng.standard_normal(outputs),
        "mean": rng.standard_normal(outputs),
        "variance": rng.uniform(0, 2, outputs),
    }
    model = model_of(
        f"h = Conv(x, w{', b' * bias}) "
        f"y = BatchNormalization<epsilon = {epsilon:.9f}>(h, scale, offset, mean, variance)",
        inputs=f"double[1,{inputs},{kernel}] x",
        outputs=f"double[1,{outputs},1] y",
        **weights,
    )
    epsilon = model.graph.node(1).attributes["epsilon"].value
    assert FuseConvBatchNorm()(model).modified
    (conv,) = model.graph
    x = rng.standard_normal((inputs, kernel))
    plain = np.einsum("oik,ik->o", weights["w"], x) + weights.get("b", 0)
    expected = (plain - weights["mean"]) / np.sqrt(weights["variance"] + np.float32(epsilon)) * weights[
        "scale"
    ] + weights["offset"]
    folded, new_bias = (conv.inputs[i].const_value.numpy() for i in (1, 2))
    scale = np.abs(weights["scale"]) / np.sqrt(weights["variance"] + np.float32(epsilon))
    bound = 1e-14 * (1 + scale * 50)
    assert np.all(np.abs(np.einsum("oik,ik->o", folded, x) + new_bias - expected) <= bound)
