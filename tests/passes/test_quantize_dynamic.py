import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from porting.simulation.interpreter import Interpreter
from porting_passes.quantize_dynamic import IntegerWeight, QuantizeDynamic, linear_weights

RNG = np.random.default_rng(0)


def model(text: str, **weights: np.ndarray) -> ir.Model:
    read = ir.serde.deserialize_model(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}'))
    for name, array in weights.items():
        value = next(v for node in read.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
        read.graph.register_initializer(value)
    read.opset_imports["porting"] = 1
    return read


def to_int8(linear, **more) -> IntegerWeight:
    """A symmetric int8 weight by the plainest formula there is."""
    array = linear.tensor.numpy().astype(np.float64)
    scale = np.abs(array).max(-1) / 127
    codes = np.rint(array / scale[..., None]).astype(np.int8)
    return IntegerWeight(ir.tensor(codes), ir.tensor(scale.astype(np.float32)), **more)


def weight(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def run(ported: ir.Model, **feeds):
    feeds = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return [tensor.numpy() for tensor in Interpreter(ported).run(feeds).values()]


def operators(ported: ir.Model) -> list[str]:
    return [node.op_type for node in ported.graph]


TWO = """g (float[2, 3, 8] x) => (float[2, 3, 4] y, float[2, 3, 5] z) { y = MatMul(x, w) z = MatMul(x, v) }"""


def test_products_of_one_value_share_its_codes_and_come_near_the_float_result():
    w, v, x = weight(8, 4), weight(8, 5), weight(2, 3, 8)
    ported = model(TWO, w=w, v=v)
    result = QuantizeDynamic(to_int8)(ported)
    assert operators(ported) == ["DynamicQuantize", "QuantizedMatMul", "QuantizedMatMul"]
    assert [q.output for q in result.quantized] == ["y", "z"]
    y, z = run(ported, x=x)
    # Each operand is off by at most half a step of 1/127 of the largest of 8 terms.
    np.testing.assert_allclose(y, x @ w, atol=8 * np.abs(x).max() * np.abs(w).max() / 127)
    np.testing.assert_allclose(z, x @ v, atol=8 * np.abs(x).max() * np.abs(v).max() / 127)
    assert not np.array_equal(y, x @ w)


def test_the_weights_are_output_channels_first_and_the_float_ones_are_gone():
    ported = model(TWO, w=weight(8, 4), v=weight(8, 5))
    QuantizeDynamic(to_int8)(ported)
    shapes = {name: value.shape.numpy() for name, value in ported.graph.initializers.items()}
    assert shapes["w/int8"] == (4, 8)
    assert shapes["w/int8/scale"] == (4,)
    assert not {"w", "v"} & set(shapes)
    names = list(shapes)
    assert names.index("w/int8") < names.index("w/int8/scale")


def test_a_kept_weight_stays_with_its_reason_and_untouched():
    ported = model(TWO, w=weight(8, 4), v=weight(8, 5))
    result = QuantizeDynamic(lambda linear: "head" if linear.value.name == "v" else to_int8(linear))(ported)
    assert operators(ported) == ["DynamicQuantize", "QuantizedMatMul", "MatMul"]
    assert [(kept.output, kept.reason) for kept in result.kept] == [("z", "head")]


def test_weights_only():
    w, v, x = weight(8, 4), weight(8, 5), weight(2, 3, 8)
    ported = model(TWO, w=w, v=v)
    QuantizeDynamic(lambda linear: to_int8(linear, activation_bits=None))(ported)
    assert operators(ported) == ["WeightOnlyMatMul", "WeightOnlyMatMul"]
    np.testing.assert_allclose(run(ported, x=x)[0], x @ w, atol=8 * np.abs(x).max() * np.abs(w).max() / 254)


def test_smoothing_scales_the_activation_and_unequal_smoothing_shares_nothing():
    w, v, x = weight(8, 4), weight(8, 5), weight(2, 3, 8)
    smooth = np.array([0.5, 1, 2, 4, 0.25, 1, 1, 1], np.float32)

    def decide(linear):
        factors = smooth if linear.value.name == "w" else np.ones(8, np.float32)
        array = linear.tensor.numpy() / factors
        scale = np.abs(array).max(-1) / 127
        codes = np.rint(array / scale[:, None]).astype(np.int8)
        return IntegerWeight(ir.tensor(codes), ir.tensor(scale.astype(np.float32)), smooth=factors)

    ported = model(TWO, w=w, v=v)
    QuantizeDynamic(decide)(ported)
    assert operators(ported).count("DynamicQuantize") == 2
    np.testing.assert_allclose(run(ported, x=x)[0], x @ w, atol=0.5)


GROUPED = """g (float[M, 8] x, int64[3] o) => (float[M, 4] y) {
    y = porting.GroupedMatmul<transposed = TURNED>(x, w, o, b) }"""


@pytest.mark.parametrize("transposed", [0, 1])
def test_experts_in_either_order_of_their_axes(transposed):
    w, b, x, o = weight(3, 8, 4), weight(3, 4), weight(6, 8), np.array([2, 2, 6])
    stored = w.swapaxes(1, 2).copy() if transposed else w
    ported = model(GROUPED.replace("TURNED", str(transposed)), w=stored, b=b)
    result = QuantizeDynamic(to_int8)(ported)
    assert operators(ported) == ["DynamicQuantize", "QuantizedGroupedMatmul"]
    assert result.quantized[0].weight_bits == 8
    expected = np.concatenate([x[:2] @ w[0] + b[0], x[2:] @ w[2] + b[2]])
    np.testing.assert_allclose(run(ported, x=x, o=o)[0], expected, atol=8 * np.abs(x).max() * np.abs(w).max() / 127)


GEMM = """g (float[3, 8] x) => (float[3, 4] y) { y = Gemm<transB = 1 MORE>(x, w, c) }"""


def test_gemm_with_a_row_for_a_bias():
    w, c, x = weight(4, 8), weight(4), weight(3, 8)
    ported = model(GEMM.replace("MORE", ""), w=w, c=c)
    QuantizeDynamic(to_int8)(ported)
    assert operators(ported) == ["DynamicQuantize", "QuantizedMatMul"]
    np.testing.assert_allclose(run(ported, x=x)[0], x @ w.T + c, atol=8 * np.abs(x).max() * np.abs(w).max() / 127)


@pytest.mark.parametrize("more, shape", [(", alpha = 2.0", (4,)), (", beta = 2.0", (4,)), ("", (3, 1))])
def test_gemm_without_an_integer_form_stays(more, shape):
    ported = model(GEMM.replace(" MORE", more), w=weight(4, 8), c=weight(*shape))
    result = QuantizeDynamic(to_int8)(ported)
    assert operators(ported) == ["Gemm"]
    assert "Gemm" in result.kept[0].reason
    assert list(ported.graph.initializers) == ["w", "c"]


def test_products_of_two_activations_and_integer_weights_are_no_linear_layers():
    text = "g (float[3, 8] x, float[8, 4] w) => (float[3, 4] y) { y = MatMul(x, w) }"
    assert list(linear_weights(model(text))) == []


def test_nothing_is_read():
    def refuse():
        raise AssertionError("the pass read a weight")

    ported = model(TWO, w=weight(8, 4), v=weight(8, 5))
    for value in ported.graph.initializers.values():
        value.const_value = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=value.shape, name=value.name)
    codes = ir.LazyTensor(refuse, dtype=ir.DataType.INT8, shape=ir.Shape([4, 8]))
    scale = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=ir.Shape([4]))
    QuantizeDynamic(lambda linear: IntegerWeight(codes, scale) if linear.value.name == "w" else "kept")(ported)
    assert operators(ported) == ["DynamicQuantize", "QuantizedMatMul", "MatMul"]
