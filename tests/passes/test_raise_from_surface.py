"""A file written by hand, with numbers worked out by hand; and what such a file must not say unheard."""

import numpy as np
import onnx_ir as ir
import pytest

from porting import backends
from porting.simulation.interpreter import Interpreter
from porting_kernels.numerics import Numerics
from porting_passes.infer_shapes import InferShapes
from porting_passes.lower_to_surface import LowerToSurface
from porting_passes.quantize_static import ActivationRange, QuantizeStatic
from porting_passes.raise_from_surface import RaiseError, RaiseFromSurface

SURFACE = backends.get("ascend-910b").surface("atc-onnx")
QUANT = 'q = AscendQuant<scale=2.0, offset=0.0, dst_type="INT8">(x)'
WORD = np.float32([0.1]).view(np.uint32).astype(np.uint64)


def file(body: str, x: str = "2, 2", word: np.ndarray = WORD, **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(a, name=n) for n, a in {"word": word, **weights}.items() if n in body]
    text = f'<ir_version: 8, opset_import: ["" : 13]> agraph (float[{x}] x) => (float y) {{ {body} }}'
    return ir.from_onnx_text(text, initializers=tensors)


def raised(model: ir.Model) -> ir.Model:
    RaiseFromSurface(SURFACE.operator_set)(model)
    return model


X = np.float32([[1.25, -0.6], [100, 0.75]])
# x * 2 rounded half to even and saturated
CODES = np.array([[2, -1], [127, 2]])
B = np.int8([[1, 2], [3, -4]])


def test_a_matrix_product_with_its_bias_in_an_add():
    body = QUANT + " p = MatMul(q, b) s = Add(p, c) y = AscendDequant<dtype=0>(s, word)"
    model = raised(file(body, b=B, c=np.int32([10, -10])))
    assert [n.op_type for n in model.graph] == ["Quantize", "IntegerMatMul", "Add", "Dequantize"]
    expected = (CODES @ B + [10, -10]).astype(np.float32) * np.float32(0.1)
    np.testing.assert_array_equal(Interpreter(model).run({"x": X})["y"].numpy(), expected)


def test_a_gemm_in_the_chip_s_arithmetic():
    body = QUANT + " p = Gemm<transB=0>(q, b, c) y = AscendDequant<dtype=1>(p, word)"
    model = raised(file(body, b=B, c=np.int32([10, -10])))
    y = Interpreter(model, numerics=Numerics(dequantize_scale="fp19")).run({"x": X})["y"].numpy()
    # 0.1 is 0x3DCCCCCD; without its low 13 bits 0x3DCCC000
    cut = np.uint32(0x3DCCC000).view(np.float32)
    np.testing.assert_array_equal(y, ((CODES @ B + [10, -10]).astype(np.float32) * cut).astype(np.float16))


def test_a_convolution_with_one_scale_a_channel():
    word = np.float32([0.5, 0.25]).view(np.uint32).astype(np.uint64)
    body = QUANT + " p = Conv<pads=[1, 0, 0, 0], strides=[1, 1]>(q, w) y = AscendDequant(p, word)"
    model = raised(file(body, "1, 1, 2, 2", word, w=np.int8([[[[1, 2]]], [[[-1, 0]]]])))
    y = Interpreter(model).run({"x": X.reshape(1, 1, 2, 2)})["y"].numpy()
    assert y.tolist() == [[[[0], [0], [131 / 2]], [[0], [-2 / 4], [-127 / 4]]]]


def test_an_offset_is_the_zero_point_of_its_consumer():
    body = 'q = AscendQuant<scale=2.0, offset=-3.0, dst_type="INT8">(x) p = MatMul(q, b) y = AscendDequant(p, word)'
    model = raised(file(body, b=B))
    shifted = np.clip(np.rint(X * 2 - 3), -128, 127) + 3
    expected = (shifted @ B).astype(np.float32) * np.float32(0.1)
    np.testing.assert_array_equal(Interpreter(model).run({"x": X})["y"].numpy(), expected)


def test_float_nodes_of_the_same_operator_are_left_alone():
    model = raised(file("y = MatMul(x, f)", f=np.eye(2, dtype=np.float32)))
    assert [n.op_type for n in model.graph] == ["MatMul"]
    assert "porting" not in model.opset_imports


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (QUANT + " p = MatMul(q, b) y = AscendDequant<relu_flag=1>(p, word)", "attribute relu_flag"),
        (QUANT + " p = MatMul(q, b) y = AscendDequant<sqrt_mode=1>(p, word)", "attribute sqrt_mode"),
        (QUANT + " p = MatMul(q, b) y = AscendDequant<unheard=1>(p, word)", "attribute unheard"),
        (QUANT + " p = MatMul(q, b) y = AscendDequant<dtype=7>(p, word)", "no counterpart"),
        (QUANT + " p = Gemm<transA=1>(q, b) y = AscendDequant(p, word)", "attribute transA"),
        (QUANT + " p = Gemm<alpha=0.5>(q, b) y = AscendDequant(p, word)", "attribute alpha"),
        (QUANT.replace("INT8", "INT4") + " p = MatMul(q, b) y = AscendDequant(p, word)", "attribute dst_type"),
    ],
)
def test_attributes_that_would_be_lost_are_refused(body, message):
    with pytest.raises(RaiseError, match=message):
        RaiseFromSurface(SURFACE.operator_set).call(file(body, b=B))


@pytest.mark.parametrize("typed", [True, False])
def test_what_was_lowered_and_written_computes_the_same(tmp_path, typed):
    rng = np.random.default_rng(3)
    weights = {
        "w": rng.standard_normal((6, 3, 3, 3)),
        "d": rng.standard_normal((6, 1, 3, 3)),
        "b": rng.standard_normal(6),
        "g": rng.standard_normal((96, 10)),
        "c": rng.standard_normal(10),
        "m": rng.standard_normal((10, 4)),
    }
    body = """
        p = Conv<pads=[1, 1, 1, 1], kernel_shape=[3, 3]>(x, w, b) r = Relu(p)
        q = Conv<group=6, strides=[2, 2], pads=[1, 1, 1, 1]>(r, d)
        f = Flatten(q) h = Gemm(f, g, c) y = MatMul(h, m)
    """
    model = file(body, "2, 3, 8, 8", **{n: a.astype(np.float32) for n, a in weights.items()})
    InferShapes()(model)
    ranges = {n: ActivationRange(-3, 3) for n in "xf"} | {n: ActivationRange(-9, 9) for n in "rh"}
    result = QuantizeStatic(ranges, SURFACE.quantization)(model)
    assert len(result.quantized) == 4
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = Interpreter(model).run({"x": x})["y"].numpy()
    LowerToSurface(SURFACE.operator_set)(model)
    assert not [n for n in model.graph if n.domain]
    proto = ir.to_proto(model)
    if not typed:
        proto.graph.ClearField("value_info")
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    again = raised(ir.load(tmp_path / "model.onnx"))
    assert sum(n.domain == "porting" for n in again.graph) == 12
    np.testing.assert_array_equal(Interpreter(again).run({"x": x})["y"].numpy(), expected)
