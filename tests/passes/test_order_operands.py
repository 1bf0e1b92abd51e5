from __future__ import annotations

import numpy as np
import onnx_ir as ir

from porting_passes.order_operands import OrderOperands


def model_of(body: str, **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    text = f'<ir_version: 10, opset_import: ["": 13]> g (float[2] x) => (float[2] y) {{ {body} }}'
    return ir.from_onnx_text(text, initializers=tensors)


def operands(model: ir.Model) -> list[list[str]]:
    return [[value.name for value in node.inputs] for node in model.graph]


C = np.array([1.0, 2.0], np.float32)


def test_a_constant_first_goes_second_and_nothing_else_moves() -> None:
    model = model_of("a = Mul(c, x) b = Sub(c, a) d = Add(x, c) e = Add(b, d) y = Max(c, e, x)", c=C)
    assert OrderOperands()(model).modified
    assert operands(model) == [["x", "c"], ["c", "a"], ["x", "c"], ["b", "d"], ["c", "e", "x"]]
    assert not OrderOperands()(model).modified


def test_two_constants_stay() -> None:
    model = model_of("a = Add(c, d) y = Mul(x, a)", c=C, d=C)
    assert not OrderOperands()(model).modified


def test_results_are_the_same_bits(run_onnxruntime) -> None:
    model = model_of("a = Mul(c, x) y = Add(c, a)", c=C)
    inputs = {"x": np.array([-0.0, 3e38], np.float32)}
    before = run_onnxruntime(model, inputs)["y"]
    OrderOperands()(model)
    np.testing.assert_array_equal(run_onnxruntime(model, inputs)["y"].view(np.int32), before.view(np.int32))
