"""Where activations must not be fused, or only with care: what the examples of the rewrites cannot say."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.fuse_activation import FuseActivation


def model_of(dtype: str, body: str, opset: int = 24, **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    text = f'<ir_version: 10, opset_import: ["": {opset}]> g ({dtype}[3] x) => ({dtype}[3] y) {{ {body} }}'
    return ir.from_onnx_text(text, initializers=tensors)


def fused(dtype: str, body: str, opset: int = 24, **weights: np.ndarray) -> ir.Model:
    model = model_of(dtype, body, opset, **weights)
    FuseActivation()(model)
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


HARD_SIGMOID = "a = Add(x, c) k = Clip(a, z, d) y = Div(k, d)"
HARD_SWISH = "a = Add(x, c) k = Clip(a, z, d) m = Mul(x, k) y = Div(m, d)"


def hard(dtype: type) -> dict[str, np.ndarray]:
    return {name: np.array(value, dtype) for name, value in (("c", 3), ("z", 0), ("d", 6))}


@pytest.mark.parametrize("body", [HARD_SIGMOID, HARD_SWISH], ids=["sigmoid", "swish"])
def test_clamped_integers_are_no_activation(body, check_model) -> None:
    model = fused("int32", body, 14, **hard(np.int32))
    assert operators(model)[0] == "Add"
    check_model(model)


@pytest.mark.parametrize("body", [HARD_SIGMOID, HARD_SWISH], ids=["sigmoid", "swish"])
def test_a_sixth_in_float32_is_too_coarse_for_float64(body) -> None:
    assert operators(fused("double", body, 14, **hard(np.float64)))[0] == "Add"
    assert operators(fused("float", body, 14, **hard(np.float32)))[0].startswith("Hard")


def test_a_gate_with_a_factor_that_float32_rounds_stays() -> None:
    body = "a = Mul(x, c) s = Sigmoid(a) y = Mul(x, s)"
    assert operators(fused("double", body, c=np.array(1.702)))[-1] == "Mul"
    assert operators(fused("double", body, c=np.array(1.5))) == ["Swish"]
    assert operators(fused("float", body, c=np.array(1.702, np.float32))) == ["Swish"]


@pytest.mark.parametrize("bounds", ["high", ", low", "low, high"], ids=["from +inf", "up to -inf", "everything"])
def test_an_infinite_bound_stays_unless_it_bounds_nothing(bounds, run_onnxruntime) -> None:
    ends = {"low": np.array(-np.inf, np.float32), "high": np.array(np.inf, np.float32)}
    body = f"r = Clip(x, low, high) y = Clip(r, {bounds})"
    inputs = {"x": np.array([-5, 1, 4], np.float32)}
    expected = run_onnxruntime(model_of("float", body, 13, **ends), inputs)["y"]
    model = fused("float", body, 13, **ends)
    assert operators(model) == ["Clip"]
    np.testing.assert_array_equal(run_onnxruntime(model, inputs)["y"], expected)
