"""The interpreter: what it runs, what it frees, what it lets through, and what it says when something does not fit."""

import gc
import weakref

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from porting.simulation.interpreter import Interpreter
from porting_kernels.errors import PortingError, UnsupportedOperatorError
from porting_kernels.numerics import REF64

FLOAT = TensorProto.FLOAT


def model(text: str, functions: str = "") -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text + functions))


HEADER = '<ir_version: 9, opset_import: ["": 18, "local": 1]>\n'
CHAIN = HEADER + "g (float[n, 4] x) => (float[n, 4] y) { a = Relu(x)  b = Neg(a)  c = Exp(b)  y = Add(c, a) }"


def test_a_chain_equals_the_reference_evaluator() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    expected = onnx.reference.ReferenceEvaluator(onnx.parser.parse_model(CHAIN)).run(None, {"x": x})[0]
    found = Interpreter(model(CHAIN)).run({"x": x})["y"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)  # exp of two libraries: one ULP


def test_a_tap_sees_wanted_values_and_may_replace_them() -> None:
    seen: dict[str, torch.Tensor] = {}

    def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
        seen[str(value.name)] = tensor
        return torch.zeros_like(tensor) if value.name == "b" else None

    x = torch.tensor([[1.0, 2.0, -3.0, 0.0]])
    y = Interpreter(model(CHAIN)).run({"x": x}, tap=tap, wanted=["b", "c"])["y"]
    assert set(seen) == {"b", "c"}
    assert torch.equal(seen["c"], torch.ones(1, 4))
    assert torch.equal(y, 1 + torch.relu(x))


def test_values_are_freed_at_their_last_use() -> None:
    alive: dict[str, weakref.ref[torch.Tensor]] = {}
    dead: list[bool] = []

    def tap(value: ir.Value, tensor: torch.Tensor) -> None:
        if value.name == "y":
            gc.collect()
            dead.append(alive["b"]() is None)
        alive[str(value.name)] = weakref.ref(tensor)

    Interpreter(model(CHAIN)).run({"x": torch.ones(2, 4)}, tap=tap)
    assert dead == [True]


def test_a_subgraph_reads_the_outer_scope() -> None:
    text = (
        HEADER
        + """g (bool flag, float[2] x) => (float[2] y) {
        y = If (flag) <then_branch = t () => (float[2] p) { p = Add(x, x) },
                       else_branch = e () => (float[2] q) { q = Neg(x) }> }"""
    )
    interpreter = Interpreter(model(text))
    x = torch.tensor([1.0, -2.0])
    assert torch.equal(interpreter.run({"flag": torch.tensor(True), "x": x})["y"], x + x)
    assert torch.equal(interpreter.run({"flag": torch.tensor(False), "x": x})["y"], -x)


def test_a_model_local_function_with_attributes_runs() -> None:
    text = HEADER + "g (float[2] x) => (float[2] y) { y = local.Scaled <by: float = 3.0> (x) }"
    function = """
        <domain: "local", opset_import: ["": 18]> Scaled <by> (v) => (w) {
        c = Constant <value_float: float = @by> ()  w = Mul(v, c) }"""
    assert Interpreter(model(text, function)).run({"x": torch.tensor([1.0, 2.0])})["y"].tolist() == [3.0, 6.0]


def test_ref64_computes_in_float64() -> None:
    text = (
        HEADER
        + """g (float[1] x) => (float[1] y) {
        big = Constant <value = float[1] {16777216.0}> ()  s = Add(big, x)  y = Sub(s, big) }"""
    )
    x = np.ones(1, np.float32)
    assert Interpreter(model(text)).run({"x": x})["y"].item() == 0.0  # 2**24 + 1 is no float32
    exact = Interpreter(model(text), numerics=REF64).run({"x": x})["y"]
    assert exact.dtype == torch.float64
    assert exact.item() == 1.0


def test_an_operator_without_a_meaning_is_named() -> None:
    text = HEADER + "g (float[1] x) => (float[1] y) { y = local.Frobnicate(x) }"
    with pytest.raises(UnsupportedOperatorError, match="Frobnicate") as error:
        Interpreter(model(text))
    assert error.value.exit_code == 2


WRONG = {
    "missing": ({}, "inputs do not match"),
    "unknown": ({"x": torch.zeros(2, 4), "z": torch.zeros(1)}, "inputs do not match"),
    "rank": ({"x": torch.zeros(2)}, "another rank"),
    "size": ({"x": torch.zeros(2, 5)}, "another size"),
    "dtype": ({"x": torch.zeros(2, 4, dtype=torch.float64)}, "another dtype"),
}


@pytest.mark.parametrize("inputs, text", WRONG.values(), ids=WRONG)
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, torch.Tensor], text: str) -> None:
    with pytest.raises(PortingError, match=text) as error:
        Interpreter(model(CHAIN)).run(inputs)
    assert error.value.exit_code == 2
    assert "x: float" in str(error.value)


def test_a_failing_node_is_named_with_its_operands() -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="culprit")],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [4])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.array([3], np.int64), "shape")],
    )
    broken = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    with pytest.raises(PortingError, match="culprit") as error:
        Interpreter(broken).run({"x": torch.zeros(4)})
    assert "float32[4]" in str(error.value)
