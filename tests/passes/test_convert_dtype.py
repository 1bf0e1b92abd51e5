from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from porting.simulation.interpreter import Interpreter
from porting_kernels.errors import DtypeError
from porting_passes import provenance
from porting_passes.convert_dtype import ConvertDtype, WeightOverflowError
from porting_passes.infer_shapes import InferShapes

F16, BF16, F32 = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT


def parse(text: str, opset: int = 18, **weights: np.ndarray) -> ir.Model:
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}, "local": 1, "vendor": 1]> g {text}')
    for name, array in weights.items():
        model.graph.register_initializer(ir.Value(name=name, type=None, const_value=ir.tensor(array, name=name)))
    return model


def weighted(text: str, opset: int = 18, **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": {opset}]> g {text}', initializers=tensors)


NETWORK = """(float[2,3,8,8] x, int64[2] i) => (float[2,4,16,16] y, int64[2] j)
    <float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b)  a = Relu(c)  half = Constant<value_float = 0.5>()  h = Mul(a, half)
    y = Resize<mode = "nearest">(h, , scales)  j = Add(i, i) }"""


def network(opset: int = 18) -> ir.Model:
    rng = np.random.default_rng(0)
    return weighted(
        NETWORK, opset, w=rng.standard_normal((4, 3, 3, 3), np.float32), b=rng.standard_normal(4, np.float32)
    )


@pytest.mark.parametrize("target", [F16, BF16], ids=["float16", "bfloat16"])
def test_the_edges_stay_float32_and_the_inside_is_narrow(target: ir.DataType, check_model) -> None:
    model = network(opset=22)  # the first with a bfloat16 convolution
    provenance.set_(model.graph.node(0).outputs[0], provenance.Provenance(("c",), equal=True))
    ConvertDtype(target)(model)
    check_model(model)
    graph = model.graph
    assert [v.name for v in graph.inputs] == ["x", "i"]
    assert [(v.name, v.dtype) for v in graph.outputs] == [("y", F32), ("j", ir.DataType.INT64)]
    assert [n.op_type for n in graph] == ["Cast", "Conv", "Relu", "Mul", "Resize", "Cast", "Add"]
    assert {n: v.dtype for n, v in graph.initializers.items()} == {
        "scales": F32, "w": target, "b": target, "half": target
    }  # fmt: skip
    assert provenance.of(graph.node(1).outputs[0]).sources == ("c",)


def test_a_clone_keeps_its_types() -> None:
    """onnx_ir's clones share the type objects of their values."""
    model = network()
    InferShapes()(model)
    clone = model.clone()
    before = {v.name: v.dtype for node in clone.graph for v in node.outputs}
    ConvertDtype(F16)(model)
    assert {v.name: v.dtype for node in clone.graph for v in node.outputs} == before
    assert before["a"] == F32


def test_float16_results_agree_with_float32_to_half_precision(run_onnxruntime, random_feeds) -> None:
    model = network()
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)["y"]
    ConvertDtype(F16)(model)
    after = run_onnxruntime(model, feeds)["y"]
    # Inputs, weights and results each round once to 11 bits; 27 products a sum: 1e-2 of the largest is generous.
    assert np.abs(after - before).max() < 1e-2 * np.abs(before).max()
    assert np.abs(after - before).max() > 0


def test_overflowing_weights_are_all_named_with_their_largest_magnitude() -> None:
    big = np.array([1.0, -7e4], np.float32)
    text = "(float[2] x) => (float[2] y) { a = Add(x, big)  c = Add(a, bigger)  y = Mul(c, fine) }"
    weights = {"big": big, "bigger": big * 1e3, "fine": np.array([65504.0, -np.inf], np.float32)}
    with pytest.raises(WeightOverflowError, match=r"(?s)2 weights.*65504.*big \(70000\), bigger \(7e\+07\)") as error:
        ConvertDtype(F16)(weighted(text, **weights))
    assert error.value.exit_code == 1
    model = weighted(text, **weights)
    ConvertDtype(BF16)(model)
    assert model.graph.initializers["big"].const_value.numpy().tolist() == [1.0, float(ml_dtypes.bfloat16(-7e4))]


@pytest.mark.parametrize("target", [F16, BF16], ids=["float16", "bfloat16"])
def test_the_extremes_of_float32_become_those_of_the_target(target: ir.DataType) -> None:
    lowest = np.finfo(np.float32).min
    model = weighted("(float[2] x) => (float[2] y) { y = Add(x, m) }", m=np.array([lowest, -np.inf], np.float32))
    ConvertDtype(target)(model)
    masked = model.graph.initializers["m"].const_value.numpy()
    assert masked[0] == ml_dtypes.finfo(target.numpy()).min
    assert np.isneginf(masked[1])


def test_operators_that_lack_the_type_compute_in_float32_joined_directly(run_onnxruntime, check_model) -> None:
    text = """(float x) => (float[n] y) <float zero = {0.0}, float one = {1.0}> {
        a = Relu(x)  r = Range(zero, a, one)  b = vendor.F(r)  y = Relu(b) }"""
    model = parse(text.replace("b = vendor.F(r)  y = Relu(b)", "y = Relu(r)"))
    ConvertDtype(F16)(model)
    assert [n.op_type for n in model.graph] == ["Cast", "Relu", "Cast", "Range", "Cast", "Relu", "Cast"]
    assert run_onnxruntime(model, {"x": np.array(3, np.float32)})["y"].tolist() == [0.0, 1.0, 2.0]
    check_model(model)


def test_an_operator_without_a_schema_keeps_float32() -> None:
    model = parse("(float[2] x) => (float[2] y) { a = Relu(x)  b = vendor.F(a)  c = vendor.G(b)  y = Neg(c) }")
    for index in (1, 2):
        value = model.graph.node(index).outputs[0]
        value.type, value.shape = ir.TensorType(F32), ir.Shape([2])
    ConvertDtype(F16)(model)
    operators = [n.op_type for n in model.graph]
    assert operators == ["Cast", "Relu", "Cast", "F", "G", "Cast", "Neg", "Cast"]


def test_values_of_unknown_type_are_refused() -> None:
    model = parse("(float[2] x) => (float[2] y) { a = vendor.F(x)  y = Neg(a) }")
    with pytest.raises(DtypeError, match=r"a \(F\)"):
        ConvertDtype(F16)(model)


def test_bfloat16_needs_opset_13() -> None:
    with pytest.raises(DtypeError, match="opset 13"):
        ConvertDtype(BF16)(parse("(float[2] x) => (float[2] y) { y = Relu(x) }", opset=11))


def test_attributes_that_choose_a_type_follow(check_model) -> None:
    model = parse(
        """(int64[2] i, float[2] x) => (float[2,3] y, float[2] z) <int64[2] s = {2, 3}> {
        c = Cast<to = 1>(i)  o = ConstantOfShape(s)  f = ConstantOfShape<value = float[1] {2.0}>(s)
        e = EyeLike(o)  a = Add(o, f)  y = Add(a, e)  d = Cast<to = 11>(x)  b = Cast<to = 1>(d)  z = Add(b, c) }"""
    )
    ConvertDtype(F16)(model)
    check_model(model)
    kinds = {n.op_type: n for n in model.graph}
    assert kinds["Add"].outputs[0].dtype == F16
    assert [n.op_type for n in model.graph].count("Cast") == 6


@pytest.mark.parametrize("flag", [True, False])
def test_subgraphs_and_functions_convert(flag: bool, run_onnxruntime, check_model) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18, "local": 1]> g (bool c, float[2] x) => (float[2] y) {
        t = local.f(x)
        y = If(c) <then_branch = a () => (float[2] p) { h = Constant<value_float = 0.5>()  p = Mul(t, h) },
                   else_branch = b () => (float[2] q) { q = Relu(t) }> }
        <domain: "local", opset_import: ["": 18]> f (u) => (v) { k = Constant<value_float = 3.0>()  v = Add(u, k) }"""
    )
    provenance.set_(model.graph.node(0).outputs[0], provenance.Provenance(("t",), equal=True))
    feeds = {"c": np.array(flag), "x": np.array([1.0, -8.0], np.float32)}
    before = run_onnxruntime(model, feeds)["y"]
    ConvertDtype(F16)(model)
    check_model(model)
    assert not model.functions
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], before)
    assert {v.dtype for n in model.graph.all_nodes() for v in n.outputs if v.name != "y"} == {F16}
    assert any(provenance.of(v).sources == ("t",) for n in model.graph for v in n.outputs)


def test_loops_carry_the_narrow_type(run_onnxruntime, check_model) -> None:
    model = parse(
        """(int64 n, float[2] x) => (float[2] y, float[k,2] z) <bool go = {1}> {
        y, z = Loop(n, go, x) <body = b (int64 i, bool c, float[2] u) => (bool d, float[2] v, float[2] w)
            { d = Identity(c)  v = Add(u, x)  w = Neg(v) }> }"""
    )
    feeds = {"n": np.array(3), "x": np.array([1.0, 2.0], np.float32)}
    before = run_onnxruntime(model, feeds)
    ConvertDtype(F16)(model)
    check_model(model)
    after = run_onnxruntime(model, feeds)
    for name in ("y", "z"):
        np.testing.assert_array_equal(after[name], before[name])


def test_large_weights_are_converted_when_they_are_written() -> None:
    weight = np.linspace(-1, 1, 1 << 19, dtype=np.float32).reshape(1 << 9, 1 << 10)
    model = weighted("(float[1,512] x) => (float[1,1024] y) { y = MatMul(x, w) }", w=weight)
    ConvertDtype(F16)(model)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    np.testing.assert_array_equal(tensor.numpy(), weight.astype(np.float16))


def test_the_product_that_routes_to_experts_stays_float32() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 20, "porting": 1]> g (float[4,8] x) => (float[4,2] weights, float[4,5] y)
        <float[8,6] w = {0}, float[1] zero = {0}, float[8,5] v = {0}> {
            l = MatMul(x, w)  weights, ids = porting.GatingTopK<k = 2>(l, zero)  y = MatMul(x, v) }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (8, 6)), ("zero", (1,)), ("v", (8, 5))):
        model.graph.initializers[name].const_value = ir.tensor(rng.standard_normal(shape).astype(np.float32), name=name)
    for node in model.graph:
        for value in node.outputs:
            value.type = value.type or ir.TensorType(ir.DataType.INT64 if value.name == "ids" else ir.DataType.FLOAT)
    ConvertDtype(ir.DataType.BFLOAT16)(model)
    types = {n.outputs[0].name: [v.dtype.name for v in n.inputs] for n in model.graph if n.op_type == "MatMul"}
    assert sorted(types.values()) == [["BFLOAT16", "BFLOAT16"], ["FLOAT", "FLOAT"]]


def test_angles_of_positions_stay_float32_and_other_sines_do_not() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 22]> g (int64[n] positions, float[n] x) => (float[n] y, float[n] z)
        <float[1] frequency = {0.7}> {
            p = Cast<to = 1>(positions)  angle = Mul(p, frequency)  y = Cos(angle)
            h = Mul(x, frequency)  z = Sin(h) }"""
    )
    InferShapes()(model)
    ConvertDtype(ir.DataType.BFLOAT16)(model)
    types = {node.op_type: node.inputs[0].dtype for node in model.graph if node.op_type in ("Cos", "Sin")}
    assert types == {"Cos": ir.DataType.FLOAT, "Sin": ir.DataType.BFLOAT16}
    positions = np.array([0, 200, 255])
    given = {"positions": positions, "x": np.zeros(3, np.float32)}
    # The angle 178.5 has a float32 step of 1.5e-5.
    np.testing.assert_allclose(Interpreter(model).run(given)["y"], np.cos(positions * np.float32(0.7)), atol=2e-5)
