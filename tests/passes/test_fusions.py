from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.canonicalize import Canonicalize
from porting_passes.fusions import fusions


def model_of(opset: int, inputs: str, outputs: str, body: str, **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return ir.from_proto(ir.to_proto(ir.from_onnx_text(text, initializers=tensors)))


def fuse(model: ir.Model, accepts=None) -> list[str]:
    for step in (Canonicalize(), *fusions(accepts=accepts), Canonicalize()):
        step(model)
    return [node.op_type for node in model.graph]


def scalar(value: float, dtype=np.float32) -> np.ndarray:
    return np.array(value, dtype)


BLOCK = """
    m = ReduceMean(x, last) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, last)
    ve = Add(eps, v) sd = Sqrt(ve) nd = Div(d, sd) ns = Mul(gamma, nd) n = Add(beta, ns)
    h = MatMul(n, wq) h4 = Reshape(h, heads) qh = Transpose<perm = [0, 2, 1, 3]>(h4)
    k = MatMul(n, wk) k4 = Reshape(k, heads) kh = Transpose<perm = [0, 2, 3, 1]>(k4)
    u = MatMul(n, wv) u4 = Reshape(u, heads) vh = Transpose<perm = [0, 2, 1, 3]>(u4)
    s = MatMul(qh, kh) sc = Div(s, two) p = Softmax<axis = -1>(sc) o = MatMul(p, vh)
    ot = Transpose<perm = [0, 2, 1, 3]>(o) oo = Reshape(ot, flat) r = Add(x, oo)
    g1 = Div(r, root) g2 = Erf(g1) g3 = Add(one, g2) g4 = Mul(r, g3) y = Mul(half, g4)
"""


def block_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    small = {name: rng.standard_normal((8, 8)).astype(np.float32) * 0.3 for name in ("wq", "wk", "wv")}
    return {
        **small,
        "gamma": rng.standard_normal(8).astype(np.float32),
        "beta": rng.standard_normal(8).astype(np.float32),
        "eps": scalar(1e-5),
        "two": scalar(2),
        "one": scalar(1),
        "half": scalar(0.5),
        "root": scalar(np.sqrt(2)),
        "last": np.array([-1], np.int64),
        "heads": np.array([2, 5, 2, 4], np.int64),
        "flat": np.array([2, 5, 8], np.int64),
    }


def test_a_transformer_block_as_exporters_write_it(run_onnxruntime, random_feeds, check_model) -> None:
    model = model_of(23, "float[2, 5, 8] x", "float[2, 5, 8] y", BLOCK, **block_weights())
    feeds = random_feeds(model)
    expected = run_onnxruntime(model, feeds)["y"]
    operators = fuse(model)
    assert {"LayerNormalization", "Attention", "Gelu"} <= set(operators)
    assert not {"ReduceMean", "Sqrt", "Softmax", "Erf", "Div"} & set(operators)
    check_model(model)
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("opset", "present", "absent"),
    [
        (18, {"LayerNormalization", "Softmax", "Erf"}, {"Attention", "Gelu"}),
        (20, {"LayerNormalization", "Softmax", "Gelu"}, {"Attention", "Erf"}),
    ],
)
def test_only_operators_that_the_opset_has(opset, present, absent) -> None:
    model = model_of(opset, "float[2, 5, 8] x", "float[2, 5, 8] y", BLOCK, **block_weights())
    operators = set(fuse(model))
    assert present <= operators
    assert not absent & operators


def test_only_operators_that_the_surface_accepts() -> None:
    model = model_of(23, "float[2, 5, 8] x", "float[2, 5, 8] y", BLOCK, **block_weights())
    operators = set(fuse(model, accepts=lambda domain, op_type, version: op_type not in ("Attention", "Gelu")))
    assert {"LayerNormalization", "Softmax", "Erf"} <= operators
    assert not {"Attention", "Gelu"} & operators


def test_a_convolution_takes_its_padding_and_its_normalization(run_onnxruntime, random_feeds) -> None:
    rng = np.random.default_rng(0)
    vectors = {name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in ("s", "o", "m", "v")}
    model = model_of(
        17,
        "float[1, 2, 6, 6] x",
        "float[1, 4, 6, 6] y",
        "p = Pad(x, pads) c = Conv(p, w) n = BatchNormalization(c, s, o, m, v) r = Relu(n) y = Clip(r, , six)",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        w=rng.standard_normal((4, 2, 3, 3)).astype(np.float32),
        six=scalar(6),
        **vectors,
    )
    feeds = random_feeds(model)
    expected = run_onnxruntime(model, feeds)["y"]
    assert fuse(model) == ["Conv", "Clip"]
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], expected, rtol=1e-5, atol=1e-5)


def test_an_erf_gelu_is_not_taken_for_a_product_with_a_shared_gate() -> None:
    body = "a = Div(x, root) e = Erf(a) g = Add(e, one) m = Mul(x, g) y = Mul(m, half) z = Neg(g)"
    weights = {"root": scalar(np.sqrt(2)), "one": scalar(1), "half": scalar(0.5)}
    model = model_of(20, "float[3] x", "float[3] y, float[3] z", body, **weights)
    assert "Gelu" not in fuse(model)


def test_half_precision_constants_are_recognized(run_onnxruntime, random_feeds) -> None:
    body = "a = Mul(x, root) e = Erf(a) g = Add(e, one) m = Mul(x, half) y = Mul(m, g)"
    weights = {name: scalar(v, np.float16) for name, v in (("root", np.sqrt(0.5)), ("one", 1), ("half", 0.5))}
    model = model_of(20, "float16[16] x", "float16[16] y", body, **weights)
    feeds = random_feeds(model)
    expected = run_onnxruntime(model, feeds)["y"].astype(np.float32)
    assert fuse(model) == ["Gelu"]
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"].astype(np.float32), expected, rtol=4e-3, atol=4e-3)


def test_constants_of_a_higher_rank_would_change_the_shape() -> None:
    body = "a = Div(x, root) e = Erf(a) g = Add(e, one) m = Mul(x, g) y = Mul(m, half)"
    weights = {"root": scalar(np.sqrt(2)), "one": scalar(1), "half": np.full((1, 1), 0.5, np.float32)}
    model = model_of(20, "float[3] x", "float[1, 3] y", body, **weights)
    assert "Gelu" not in fuse(model)


def test_attention_leaves_grouped_heads_and_late_masks() -> None:
    body = "t = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v)"
    grouped = "float[2, 4, 3, 8] q, float[2, 1, 5, 8] k, float[2, 1, 5, 8] v"
    assert "Attention" not in fuse(model_of(23, grouped, "float[2, 4, 3, 8] y", body))
    equal = grouped.replace("[2, 1", "[2, 4")
    assert "Attention" in fuse(model_of(23, equal, "float[2, 4, 3, 8] y", body))


def test_float64_normalization_stays() -> None:
    body = (
        "m = ReduceMean<axes = [-1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q) "
        "e = Add(v, eps) s = Sqrt(e) n = Div(d, s) y = Mul(n, w)"
    )
    weights = {"eps": scalar(1e-5, np.float64), "w": np.ones(4)}
    assert "LayerNormalization" not in fuse(model_of(17, "double[3, 4] x", "double[3, 4] y", body, **weights))
