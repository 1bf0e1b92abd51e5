from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from porting import stock_runtime
from porting.parity.fidelity import _compare_codes, measure_fidelity, stock_session
from porting.parity.widen import widened
from porting_passes.operators import add_bodies, quantize


def written(model, path):
    ir.save(model, path)
    return path


@pytest.mark.parametrize(("dtype", "limit"), [("float", 1e-5), ("float16", 2e-3)])
def test_a_faithful_port_agrees_with_stock_onnxruntime(make_net, samples, tmp_path, dtype, limit):
    model = make_net(dtype)
    fidelity = measure_fidelity(written(model, tmp_path / "model.onnx"), model, samples, tie=limit)
    assert fidelity.not_measured is None
    assert fidelity.outputs["y"].count == 4 * 8
    assert fidelity.outputs["y"].rel_l2 <= limit


def test_another_computation_is_seen(make_net, samples, tmp_path):
    path = written(make_net(scale=1.1), tmp_path / "model.onnx")
    assert measure_fidelity(path, make_net(), samples, tie=1e-5).outputs["y"].rel_l2 > 1e-3


def test_external_weights_are_found(make_net, samples, tmp_path):
    model = make_net()
    ir.save(model, tmp_path / "model.onnx", external_data="weights.bin")
    assert measure_fidelity(tmp_path / "model.onnx", model, samples, tie=1e-5).outputs["y"].rel_l2 <= 1e-5


def test_a_file_that_does_not_load_is_not_measured(make_net, samples, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08")
    fidelity = measure_fidelity(path, make_net(), samples, tie=1e-5)
    assert fidelity.outputs == {}
    assert "model.onnx" in fidelity.not_measured


def quantized_model():
    text = """<ir_version: 8, opset_import: ["" : 17, "porting" : 1]>
      f (float[64] x) => (float[64] y) {
        h = Neg (x)
        q = porting.Quantize <scale=10.0, offset=3> (h)
        y = Cast <to=1> (q)
      }"""
    model = ir.from_onnx_text(text)
    function = quantize.body(17)
    model.functions[function.identifier()] = function
    return model


def test_integer_codes_are_compared_at_the_quantizer(tmp_path):
    model = quantized_model()
    x = np.random.default_rng(2).standard_normal(64).astype(np.float32)
    fidelity = measure_fidelity(written(model, tmp_path / "twin.onnx"), model, [{"x": x}], tie=1e-5)
    assert fidelity.not_measured is None
    codes = fidelity.codes["q"]
    assert (codes.count, codes.mismatches) == (64, 0)
    assert fidelity.outputs["y"].rel_l2 == 0.0


@pytest.mark.parametrize(
    ("value", "ours", "ties", "mismatches"),
    [(0.25, 6, 1, 0), (0.2500001, 6, 1, 0), (0.26, 5, 0, 1), (0.25, 7, 0, 1)],
    ids=["on the border", "beside it", "off it", "two codes away"],
)
def test_a_code_is_excused_only_at_a_border(value, ours, ties, mismatches):
    """0.25 * 10 + 3 = 5.5 lies between the codes 5 and 6; onnxruntime says 5 in the first case, 6 in the third."""
    node = next(n for n in quantized_model().graph if n.op_type == "Quantize")
    theirs = {6: 5, 5: 6, 7: 5}[ours]
    before = {"h": torch.tensor([value])}
    arrays = (torch.tensor([c], dtype=torch.int8) for c in (theirs, ours))
    codes = _compare_codes(node, before, *arrays, 1e-5)
    assert (codes.ties, codes.mismatches) == (ties, mismatches)


def by_row_model():
    text = """<ir_version: 8, opset_import: ["" : 17, "porting" : 1]>
      f (float[4, 16] x) => (float[4, 16] y) <float[4, 16] h, int8[4, 16] q, float[4] s> {
        h = Neg (x)
        q, s = porting.DynamicQuantize (h, ones)
        y = Cast <to=1> (q)
      }"""
    model = ir.from_onnx_text(text, initializers=[ir.tensor(np.ones(1, np.float32), name="ones")])
    add_bodies(model)
    return model


def test_codes_of_a_quantizer_by_row_are_compared_with_the_scales_it_found(tmp_path):
    model = by_row_model()
    x = np.random.default_rng(2).standard_normal((4, 16)).astype(np.float32)
    fidelity = measure_fidelity(written(model, tmp_path / "twin.onnx"), model, [{"x": x}], tie=1e-5)
    assert fidelity.not_measured is None
    assert (fidelity.codes["q"].count, fidelity.codes["q"].mismatches) == (64, 0)


@pytest.mark.parametrize(("value", "ties", "mismatches"), [(2.5, 1, 0), (2.6, 0, 1)])
def test_a_code_of_a_row_is_excused_only_at_a_border(value, ties, mismatches):
    node = next(n for n in by_row_model().graph if n.op_type == "DynamicQuantize")
    theirs, ours = torch.tensor([[127, 2]], dtype=torch.int8), torch.tensor([[127, 3]], dtype=torch.int8)
    before = {"h": torch.tensor([[127.0, value]])}
    codes = _compare_codes(node, before, theirs, ours, 1e-5, torch.tensor([1.0]))
    assert (codes.count, codes.ties, codes.mismatches) == (2, ties, mismatches)


def test_bfloat16_runs_widened(tmp_path):
    weight = np.random.default_rng(3).standard_normal((8, 8)).astype(ml_dtypes.bfloat16)
    text = """<ir_version: 8, opset_import: ["" : 17]>
      f (bfloat16[2,8] x) => (float[2,8] y) { m = MatMul (x, w) y = Cast <to=1> (m) }"""
    model = ir.from_onnx_text(text, initializers=[ir.tensor(weight, name="w")])
    x = np.random.default_rng(4).standard_normal((2, 8)).astype(np.float32)
    fidelity = measure_fidelity(written(model, tmp_path / "m.onnx"), model, [{"x": x}], tie=1.6e-2)
    assert "widened" in fidelity.against
    assert fidelity.outputs["y"].rel_l2 < 1e-6


def test_widening_keeps_values_and_leaves_no_bfloat16(tmp_path):
    weight = np.array([1.0, 2**-130, -3.140625], dtype=ml_dtypes.bfloat16)
    text = """<ir_version: 8, opset_import: ["" : 17]>
      f (float[3] x) => (float[3] y) { c = Cast <to=16> (x) s = Add (c, w) y = Cast <to=1> (s) }"""
    proto = ir.to_proto(ir.from_onnx_text(text, initializers=[ir.tensor(weight, name="w")]))
    wide = widened(proto, tmp_path)
    assert onnx.numpy_helper.to_array(wide.graph.initializer[0]).tolist() == weight.astype(np.float32).tolist()
    assert [a.i for n in wide.graph.node for a in n.attribute] == [1, 1]
    assert onnx.TensorProto.BFLOAT16 in [a.i for n in proto.graph.node for a in n.attribute], (
        "the original is untouched"
    )


def test_optimizations_are_off_and_inner_values_come_out(make_net, samples, tmp_path):
    path = written(quantized_model(), tmp_path / "twin.onnx")
    session = stock_session(path, extra_outputs=["q"])
    assert session.get_session_options().graph_optimization_level.name == "ORT_DISABLE_ALL"
    outputs = stock_runtime.run(session, {"x": np.zeros(64, dtype=np.float32)})
    assert outputs["q"].dtype == np.int8
    assert set(outputs["q"].tolist()) == {3}
