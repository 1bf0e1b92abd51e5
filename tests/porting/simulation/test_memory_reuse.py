"""Activations write over their operand where nothing can notice, and nowhere else."""

import onnx
import onnx_ir as ir
import pytest
import torch

from porting.simulation.interpreter import Interpreter

HEADER = '<ir_version: 9, opset_import: ["": 18]>\n'
WEIGHT = """w = Constant <value = float[1,1,1,1] {1.0}> ()
    six = Constant <value = float {6.0}> ()  zero = Constant <value = float {0.0}> () """


def interpreter(body: str, outputs: str = "float[1,1,2,2] y") -> Interpreter:
    text = f"{HEADER}g (float[1,1,2,2] x) => ({outputs}) {{ {WEIGHT} {body} }}"
    return Interpreter(ir.from_proto(onnx.parser.parse_model(text)))


def overwritten(made: Interpreter) -> list[str]:
    return [step.node.op_type for step in made._plan.steps if step.in_place is not None]


X = torch.tensor([[[[-1.0, 2.0], [float("nan"), 9.0]]]])

CASES = {
    "behind a convolution": ("c = Conv(x, w)  y = Relu(c)", ["Relu"]),
    "a chain in one buffer": ("c = Conv(x, w)  r = Relu(c)  y = Clip(r, zero, six)", ["Relu", "Clip"]),
    "an input": ("y = Relu(x)", []),
    "a second use": ("c = Conv(x, w)  r = Relu(c)  y = Add(r, c)", []),
    "a view that lives on": ("s = Shape(x)  c = Conv(x, w)  v = Reshape(c, s)  r = Relu(c)  y = Add(r, v)", []),
    "a view of the input": ("s = Shape(x)  v = Reshape(x, s)  r = Relu(v)  y = Add(r, x)", []),
}


@pytest.mark.parametrize("body, expected", CASES.values(), ids=CASES)
def test_only_what_nobody_else_can_see_is_written_over(body: str, expected: list[str]) -> None:
    made = interpreter(body)
    assert overwritten(made) == expected
    x = X.clone()
    first = made.run({"x": x})["y"].clone()
    assert torch.equal(x.nan_to_num(-7), X.nan_to_num(-7))  # the caller's tensor is the caller's
    assert torch.equal(made.run({"x": x})["y"].nan_to_num(-7), first.nan_to_num(-7))
    watched = made.run({"x": x}, tap=lambda value, tensor: None)["y"]
    assert torch.equal(watched.nan_to_num(-7), first.nan_to_num(-7))


def test_a_graph_output_is_not_written_over() -> None:
    made = interpreter("c = Conv(x, w)  y = Relu(c)", "float[1,1,2,2] y, float[1,1,2,2] c")
    assert overwritten(made) == []
    assert made.run({"x": torch.full((1, 1, 2, 2), -1.0)})["c"].max() == -1


def test_a_tap_may_keep_what_it_was_shown() -> None:
    made = interpreter("c = Conv(x, w)  y = Relu(c)")
    kept: list[torch.Tensor] = []
    made.run({"x": torch.full((1, 1, 2, 2), -1.0)}, tap=lambda value, tensor: kept.append(tensor))
    assert kept[0].max() == -1
