from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porting_passes import provenance
from porting_passes.absorb_weight_transpose import AbsorbWeightTranspose


def model_of(
    body: str, inputs: str = "float[2, 3] x", outputs: str = "float[2, 4] y", **weights: np.ndarray
) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    text = f'<ir_version: 10, opset_import: ["": 20]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return ir.from_onnx_text(text, initializers=tensors)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


W = np.arange(12, dtype=np.float32).reshape(4, 3)


class Unread:
    """A stored tensor that must not be read."""

    def __init__(self, dims: tuple[int, ...], dtype: ir.DataType = ir.DataType.FLOAT) -> None:
        self.dims, self.dtype, self.name, self.turned = dims, dtype, "w", False
        self.shape, self.size, self.nbytes = ir.Shape(dims), int(np.prod(dims)), 4 * int(np.prod(dims))

    def converted(self, dtype: ir.DataType, name: str) -> Unread:
        raise AssertionError("nothing asks for another dtype")

    def transposed(self) -> Unread:
        turned = Unread(self.dims[::-1])
        turned.turned = True
        return turned

    def numpy(self) -> np.ndarray:
        raise AssertionError("read")


def test_a_product_takes_the_weight_the_other_way_round(run_onnxruntime, random_feeds):
    model = model_of("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", w=W)
    feeds = random_feeds(model)
    assert AbsorbWeightTranspose()(model).modified
    assert operators(model) == ["MatMul"]
    assert list(model.graph.initializers) == ["w/transposed"]
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], feeds["x"] @ W.T, rtol=1e-6)
    assert not AbsorbWeightTranspose()(model).modified


def test_a_stored_weight_is_not_read():
    model = model_of("t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t)", w=W)
    model.graph.initializers["w"].const_value = Unread((4, 3))
    AbsorbWeightTranspose()(model)
    weight = model.graph.initializers["w/transposed"]
    assert weight.const_value.turned
    assert list(weight.shape) == [3, 4]
    assert provenance.of(weight).rules == ("absorb_weight_transpose",)


def test_a_tied_weight_stays_for_its_other_consumer(run_onnxruntime, random_feeds):
    body = "e = Gather(w, i) t = Transpose<perm = [1, 0]>(w) y = MatMul(e, t)"
    model = model_of(body, "int64[2] i", "float[2, 4] y", w=W)
    AbsorbWeightTranspose()(model)
    assert operators(model) == ["Gather", "MatMul"]
    assert set(model.graph.initializers) == {"w", "w/transposed"}
    np.testing.assert_allclose(run_onnxruntime(model, {"i": np.array([1, 3])})["y"], W[[1, 3]] @ W.T)


def test_transposes_of_one_weight_share_one():
    transposes = "t = Transpose<perm = [1, 0]>(w) u = Transpose<perm = [1, 0]>(w)"
    model = model_of(f"{transposes} a = MatMul(x, t) b = MatMul(x, u) y = Add(a, b)", w=W)
    AbsorbWeightTranspose()(model)
    assert operators(model) == ["MatMul", "MatMul", "Add"]
    assert list(model.graph.initializers) == ["w/transposed"]


def test_other_transposes_stay():
    stack = np.zeros((2, 4, 3), np.float32)
    for body, weights in (
        ("t = Transpose<perm = [1, 0]>(w) n = Neg(t) y = MatMul(x, n)", {"w": W}),
        ("t = Transpose<perm = [1, 0]>(x) y = MatMul(w, t)", {"w": W}),
        ("t = Transpose<perm = [2, 0, 1]>(w) y = MatMul(x, t)", {"w": stack}),
        ("t = Transpose<perm = [1, 0]>(w) y = MatMul(t, x)", {"w": W}),
    ):
        assert not AbsorbWeightTranspose()(model_of(body, **weights)).modified, body


def test_every_matrix_of_a_stack_is_turned(run_onnxruntime):
    stack = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    body = "t = Transpose<perm = [0, 2, 1]>(w) y = MatMul(x, t)"
    model = model_of(body, "float[2, 5, 3] x", "float[2, 5, 4] y", w=stack)
    assert AbsorbWeightTranspose()(model).modified
    x = np.ones((2, 5, 3), np.float32)
    np.testing.assert_allclose(run_onnxruntime(model, {"x": x})["y"], x @ stack.swapaxes(1, 2))
