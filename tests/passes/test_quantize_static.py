import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from porting.simulation.interpreter import Interpreter
from porting_kernels.errors import ShapeError
from porting_passes import provenance
from porting_passes.infer_shapes import InferShapes
from porting_passes.operators import add_bodies
from porting_passes.quantization_style import KeepFloat, QuantizationStyle
from porting_passes.quantize_static import ActivationRange, QuantizeStatic

CHANNELS = QuantizationStyle(
    operators=("Conv", "Gemm", "MatMul"),
    activation="symmetric",
    weight={"Conv": "channel", "Gemm": "channel", "MatMul": "channel"},
    depthwise="channel",
    bias="int32",
    parameters="reciprocal_scale",
    carrier="nodes",
)
OFFSETS = dataclasses.replace(
    CHANNELS,
    activation="asymmetric",
    weight={"Conv": "channel", "Gemm": "tensor", "MatMul": "tensor"},
    depthwise="tensor",
    bias="float",
    parameters="position_scale",
    carrier="ranges",
)
STYLES = {"channels": CHANNELS, "offsets": OFFSETS}
RNG = np.random.default_rng(11)


def noise(*shape: int, spread: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * spread).astype(np.float32)


def model_of(inputs: str, outputs: str, body: str, opset: int = 13, **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> agraph ({inputs}) => ({outputs}) {{ {body} }}'
    model = ir.from_onnx_text(text, initializers=tensors)
    InferShapes()(model)
    for node in model.graph:
        for value in node.outputs:
            provenance.set_(value, provenance.Provenance(sources=(value.name,), equal=True, module=f"net.{value.name}"))
    return model


def types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def claimed(x, w, style, range_, *, axis=0, depthwise=False, contract=None, bias=None, op_type="Conv"):
    """The scheme in plain numpy: codes, exact sums in float64, one float32 product, bias."""
    low, high = min(range_.min, 0), max(range_.max, 0)
    if style.activation == "symmetric":
        multiplier, offset = np.float32(127 / max(-low, high)), 0
    else:
        multiplier = np.float32(255 / (high - low))
        offset = int(np.rint(-128 - low * 255 / (high - low)))
    codes = np.clip(np.rint(x * multiplier + np.float32(offset)), -128, 127).astype(np.float64) - offset
    granularity = style.weight_granularity(op_type, depthwise=depthwise)
    others = tuple(i for i in range(w.ndim) if i != axis) if granularity == "channel" else None
    absmax = np.abs(w).max(axis=others, keepdims=True)
    step = absmax / np.float32(127)
    weight = np.clip(np.rint(w / step), -127, 127).astype(np.float64)
    if style.parameters == "position_scale":
        factor = (127 / absmax.astype(np.float64)).astype(np.float32)
        scaled = w * factor
        weight = np.clip(np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5)), -127, 127).astype(np.float64)
        step = 1 / factor.astype(np.float64)
    scale = (step.astype(np.float64) / multiplier).astype(np.float32).reshape(-1)
    acc = contract(torch.from_numpy(codes), torch.from_numpy(weight)).numpy()
    channel_shape = (-1, *[1] * (w.ndim - 2)) if op_type == "Conv" else (-1,)
    if bias is not None and style.bias == "int32":
        acc = acc + np.rint(bias.astype(np.float64) / scale).reshape(channel_shape)
    y = acc.astype(np.float32) * scale.reshape(channel_shape)
    return y + bias.reshape(channel_shape) if bias is not None and style.bias == "float" else y


def check(model, feeds, name, range_, style, expected, run_onnxruntime):
    """The quantized model equals the scheme in numpy, in the interpreter and, through bodies, in onnxruntime."""
    result = QuantizeStatic({name: range_}, style)(model)
    assert result.kept == []
    (y,) = Interpreter(model).run(feeds).values()
    np.testing.assert_array_equal(y.numpy(), expected)
    add_bodies(model)
    np.testing.assert_array_equal(next(iter(run_onnxruntime(model, feeds).values())), expected)
    return result


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_convolution_equals_the_scheme_in_numpy(style, opset, group, run_onnxruntime):
    x, w, b = noise(2, 4, 9, 8), noise(8, 4 // group, 3, 2, spread=0.2), noise(8)
    range_ = ActivationRange(-1.5, 2.75)
    model = model_of(
        "float[2, 4, 9, 8] x",
        "float[2, 8, 5, 6] y",
        f"y = Conv<group={group}, strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 3]>(x, w, b)",
        opset,
        w=w,
        b=b,
    )

    def contract(codes, weight):
        return F.conv2d(F.pad(codes, (0, 1, 1, 2)), weight, None, (2, 1), 0, (1, 3), group)

    expected = claimed(x, w, STYLES[style], range_, contract=contract, bias=b, depthwise=group == 4)
    check(model, {"x": x}, "x", range_, STYLES[style], expected, run_onnxruntime)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(("op_type", "attributes"), [("MatMul", ""), ("Gemm", ""), ("Gemm", "<transB=1>")])
def test_matrix_products_equal_the_scheme_in_numpy(style, opset, op_type, attributes, run_onnxruntime):
    x, w, b = noise(5, 12), noise(12, 7, spread=0.3), noise(7)
    range_ = ActivationRange(-2.0, 3.0)
    stored = w.T.copy() if attributes else w
    gemm = {"b": b} if op_type == "Gemm" else {}
    body = f"y = {op_type}{attributes}(x, w{', b' if gemm else ''})"
    model = model_of("float[5, 12] x", "float[5, 7] y", body, opset, w=stored, **gemm)
    expected = claimed(x, w, STYLES[style], range_, axis=1, contract=torch.matmul, bias=gemm.get("b"), op_type=op_type)
    result = check(model, {"x": x}, "x", range_, STYLES[style], expected, run_onnxruntime)
    (node,) = result.quantized
    assert node.bias == ("none" if op_type == "MatMul" else STYLES[style].bias)


def test_a_matrix_product_of_rank_4(run_onnxruntime):
    x, w = noise(2, 3, 4, 6), noise(6, 5)
    range_ = ActivationRange(-2, 2)
    model = model_of("float[2, 3, 4, 6] x", "float[2, 3, 4, 5] y", "y = MatMul(x, w)", w=w)
    expected = claimed(x, w, CHANNELS, range_, axis=1, contract=torch.matmul, op_type="MatMul")
    check(model, {"x": x}, "x", range_, CHANNELS, expected, run_onnxruntime)


def test_alpha_and_beta_of_gemm_keep_their_meaning():
    x, w, b = noise(4, 6), noise(6, 3), noise(4, 3)
    model = model_of("float[4, 6] x", "float[4, 3] y", "y = Gemm<alpha=0.25, beta=3.0>(x, w, b)", w=w, b=b)
    QuantizeStatic({"x": ActivationRange(-4, 4)}, CHANNELS)(model)
    y = Interpreter(model).run({"x": x})["y"].numpy()
    # Half a step of x and w each, over six products; a matrix as bias cannot be an int32 vector and stays exact.
    np.testing.assert_allclose(y, 0.25 * (x @ w) + 3 * b, atol=0.25 * 6 * 4 * 4 / 127)
    assert types(model)[-1] == "Add"


def test_the_bias_of_a_channel_of_zeros_is_as_exact_as_any(run_onnxruntime):
    w, b = noise(4, 3, 1, 1), np.array([0.7, -0.3, 0.011, 2.0], np.float32)
    w[:2] = 0
    model = model_of("float[1,3,2,2] x", "float[1,4,2,2] y", "y = Conv(x, w, b)", w=w, b=b)
    QuantizeStatic({"x": ActivationRange(-6, 6)}, CHANNELS)(model)
    add_bodies(model)
    y = run_onnxruntime(model, {"x": np.zeros((1, 3, 2, 2), np.float32)})["y"]
    np.testing.assert_allclose(y[0, :, 0, 0], b, atol=1e-3)  # half a step of the accumulator: 6 / 127 * 3 / 127 / 2


def test_a_bias_that_int32_cannot_hold_is_added_in_float():
    b = np.array([1e6, 0], np.float32)
    model = model_of("float[1, 2] x", "float[1, 2] y", "y = Gemm(x, w, b)", w=np.eye(2, dtype=np.float32), b=b)
    result = QuantizeStatic({"x": ActivationRange(-1e-3, 1e-3)}, CHANNELS)(model)
    assert result.quantized[0].bias == "float"
    assert Interpreter(model).run({"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[1e6, 0]]


def test_a_bias_computed_at_run_time_is_added_in_float():
    w = noise(3, 2, 1, 1)
    model = model_of("float[1, 2, 2, 2] x, float[3] b", "float[1, 3, 2, 2] y", "y = Conv(x, w, b)", w=w)
    QuantizeStatic({"x": ActivationRange(-1, 1)}, CHANNELS)(model)
    feeds = {"x": np.zeros((1, 2, 2, 2), np.float32), "b": np.float32([1, 2, 3])}
    assert Interpreter(model).run(feeds)["y"][0, :, 0, 0].tolist() == [1, 2, 3]


def test_a_shared_activation_is_quantized_once_and_a_shared_weight_stored_once():
    model = model_of(
        "float[2, 3] x, float[2, 3] z",
        "float[2, 3] y",
        "r = Relu(x) p = MatMul(r, w) q = Gemm(r, w) s = MatMul(z, w) t = Add(p, q) y = Add(s, t)",
        w=noise(3, 3),
    )
    QuantizeStatic({"r": ActivationRange(0, 3), "z": ActivationRange(-1, 1)}, CHANNELS)(model)
    assert types(model).count("Quantize") == 2
    int8 = [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    assert len(int8) == 1
    assert "w" not in model.graph.initializers


def test_an_activation_that_is_itself_a_quantized_result(check_model):
    """Neither the order of replacement nor a graph output in the middle breaks the chain."""
    body = "h = Gemm(x, w, b) y = MatMul(h, v)"
    model = model_of("float[2, 3] x", "float[2, 3] h, float[2, 4] y", body, w=noise(3, 3), b=noise(3), v=noise(3, 4))
    feeds = {"x": noise(2, 3)}
    expected = Interpreter(model).run(feeds)
    for style in STYLES.values():
        quantized = model.clone()
        QuantizeStatic({"x": ActivationRange(-3, 3), "h": ActivationRange(-9, 9)}, style)(quantized)
        found = Interpreter(quantized).run(feeds)
        assert list(found) == ["h", "y"]
        for name, reference in expected.items():
            np.testing.assert_allclose(found[name], reference, atol=0.05 * float(reference.abs().max()) + 0.1)
        add_bodies(quantized)
        check_model(quantized)


def test_provenance_and_names_of_the_replaced_values_are_kept():
    model = model_of(
        "float[1, 2, 4, 4] x", "float[1, 3, 4, 4] y", "c = Conv(x, w, b) y = Relu(c)", w=noise(3, 2, 1, 1), b=noise(3)
    )
    QuantizeStatic({"x": ActivationRange(-1, 1)}, OFFSETS)(model)
    values = {v.name: v for node in model.graph for v in node.outputs}
    replaced = provenance.of(values["c"])
    assert values["c"].producer().op_type == "Add"
    assert (replaced.sources, replaced.equal, replaced.module) == (("c",), True, "net.c")
    assert replaced.rules == ("quantize_static",)
    inner = provenance.of(values["c"].producer().inputs[0])
    assert (inner.sources, inner.equal) == (("c",), False)
    assert len(values) == sum(len(node.outputs) for node in model.graph)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = MatMul(x, z)", "computed at run time"),
        ("y = MatMul(x, nan)", "not finite: nan at [1, 0]"),
        ("y = MatMul(x, named)", "the user said so"),
        ("r = Relu(x) y = MatMul(r, w)", "no range is known for activation 'r'"),
        ("y = Gemm(x, w)", "odd [source: page 1]"),
    ],
)
def test_what_stays_in_float_says_why(body, reason):
    nan = np.eye(3, dtype=np.float32)
    nan[1, 0] = np.nan
    used = {n: a for n, a in {"w": noise(3, 3), "named": noise(3, 3), "nan": nan}.items() if n in body}
    model = model_of("float[2, 3] x, float[3, 3] z", "float[2, 3] y", body, **used)
    keep = KeepFloat("Gemm", "dim(B, 0) == 3 and attr('transA') == 0", "odd", "page 1")
    style = dataclasses.replace(CHANNELS, keep_float=(keep,))
    exclude = {"y": "the user said so"} if "named" in body else {}
    before = types(model)
    result = QuantizeStatic({"x": ActivationRange(-1, 1)}, style, exclude=exclude)(model)
    assert not result.modified
    assert types(model) == before
    (kept,) = result.kept
    assert reason in kept.reason
    assert (kept.output, kept.place) == ("y", "net.y")


def test_an_operator_that_the_style_lacks_stays_in_float():
    model = model_of("float[2, 3] x", "float[2, 3] y", "y = MatMul(x, w)", w=noise(3, 3))
    style = dataclasses.replace(CHANNELS, operators=("Conv",))
    assert "no int8 MatMul" in QuantizeStatic({"x": ActivationRange(-1, 1)}, style)(model).kept[0].reason


def test_transposed_convolutions_and_the_bodies_of_control_flow_are_listed_too():
    model = model_of(
        "float[1,2,4,4] x, bool c",
        "float[1,2,5,5] y, float[1,2,4,4] z",
        """y = ConvTranspose(x, w)
        z = If(c) <then_branch = then () => (float[1,2,4,4] t) { t = Conv<pads = [0, 0, 0, 0]>(x, v) },
                   else_branch = other () => (float[1,2,4,4] e) { e = Identity(x) }>""",
        w=noise(2, 2, 2, 2),
        v=noise(2, 2, 1, 1),
    )
    result = QuantizeStatic({"x": ActivationRange(-1, 1)}, CHANNELS)(model)
    assert not result.modified
    assert {(k.output, k.op_type): k.reason.split(",")[0] for k in result.kept} == {
        ("y", "ConvTranspose"): "the surface has no int8 ConvTranspose",
        ("t", "Conv"): "inside the body of a control-flow operator",
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_model_keeps_its_type(dtype):
    import ml_dtypes

    kind = np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    weight = ir.tensor(noise(3, 4).astype(kind), name="w")
    bias = ir.tensor(noise(4).astype(kind), name="b")
    graph = f"agraph ({dtype}[2, 3] x) => ({dtype}[2, 4] y) {{ y = Gemm(x, w, b) }}"
    text = f'<ir_version: 8, opset_import: ["" : 13]> {graph}'
    for style in STYLES.values():
        model = ir.from_onnx_text(text, initializers=[weight, bias])
        x = torch.from_numpy(noise(2, 3)).to(getattr(torch, dtype))
        expected = Interpreter(model).run({"x": x})["y"]
        QuantizeStatic({"x": ActivationRange(-3, 3)}, style)(model)
        y = Interpreter(model).run({"x": x})["y"]
        assert y.dtype == getattr(torch, dtype)
        # Three products, each with half a step of x (3 / 127) and of w (about 2.5 / 127); rounding of the type.
        assert (y.float() - expected.float()).abs().max() < 3 * (3 * 2.5 / 127) + 0.05


def test_given_magnitudes_replace_those_of_the_weight():
    model = model_of("float[1, 2] x", "float[1, 2] y", "y = MatMul(x, w)", w=np.eye(2, dtype=np.float32))
    magnitudes = np.float32([2.54, 1.27])
    QuantizeStatic({"x": ActivationRange(-127, 127)}, CHANNELS, weight_absmax={"y": magnitudes})(model)
    codes = next(v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8)
    assert codes.const_value.numpy().tolist() == [[50, 0], [0, 100]]


def test_magnitudes_of_another_number_are_refused():
    model = model_of("float[1, 2] x", "float[1, 2] y", "y = MatMul(x, w)", w=np.eye(2, dtype=np.float32))
    step = QuantizeStatic({"x": ActivationRange(-1, 1)}, CHANNELS, weight_absmax={"y": np.ones(3, np.float32)})
    with pytest.raises(ShapeError, match="1 or 2"):
        step.call(model)
