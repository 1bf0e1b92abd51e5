from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.causal_mask import is_causal
from porting_passes.infer_shapes import InferShapes

BODY = """s = Shape(x) n = Gather(s, one) r = Range(zero, n, one) t = Range(zero, n, one) q0 = Add(t, zero)
    k = Unsqueeze(r, front) q = Unsqueeze(q0, back) c = LessOrEqual(k, q) e = Expand(c, wide)
    m = Where(e, nothing, low)"""
CONSTANTS = {
    "zero": np.array(0, np.int64),
    "one": np.array(1, np.int64),
    "front": np.array([0, 1, 2], np.int64),
    "back": np.array([0, 1, 3], np.int64),
    "wide": np.array([2, 1, 1, 1], np.int64),
    "nothing": np.array(0, np.float32),
    "low": np.array(np.finfo(np.float32).min, np.float32),
}


def mask(*changes: tuple[str, str], **constants: np.ndarray) -> ir.Value:
    body = BODY
    for old, new in changes:
        assert old in body
        body = body.replace(old, new)
    tensors = [ir.tensor(array, name=name) for name, array in (CONSTANTS | constants).items()]
    text = f'<ir_version: 10, opset_import: ["": 20]> g (float[b, n] x) => (float[2, 1, n, n] m) {{ {body} }}'
    model = ir.from_onnx_text(text, initializers=tensors)
    InferShapes()(model)
    # Shape inference gives ranges lengths of their own; an exporter says that they are the sequence.
    for value in (v for node in model.graph for v in node.outputs):
        if value.shape is not None and not value.shape.is_static():
            value.shape = ir.Shape([d if isinstance(d, int) else "n" for d in value.shape])
    return model.graph.outputs[0]


def test_as_exporters_build_it():
    assert is_causal(mask())
    assert is_causal(mask(("LessOrEqual(k, q)", "GreaterOrEqual(q, k)")))
    assert is_causal(mask(low=np.array(-np.inf, np.float32)))


@pytest.mark.parametrize(
    "changes",
    [
        [("LessOrEqual(k, q)", "LessOrEqual(q, k)")],
        [("LessOrEqual(k, q)", "Less(k, q)")],
        [("Where(e, nothing, low)", "Where(e, low, nothing)")],
        [("Add(t, zero)", "Add(t, one)")],
        [("r = Range(zero", "r = Range(one")],
        [("t = Range(zero, n, one)", "o = Add(n, one) t = Range(zero, o, one)")],
        [("c = LessOrEqual(k, q)", "c0 = LessOrEqual(k, q) c = Not(c0)")],
    ],
    ids=str,
)
def test_masks_that_only_look_like_it(changes):
    assert not is_causal(mask(*changes))


def test_what_is_hidden_must_be_hidden_for_certain():
    assert not is_causal(mask(low=np.array(-1e4, np.float32)))
    assert not is_causal(mask(nothing=np.array(1, np.float32)))


TRIANGLE = """<ir_version: 10, opset_import: ["": 20]> g (float[b, n] x) => (float[n, ROWS] m) {
    s = Shape<start = 1>(x) t = Concat<axis = 0>(s, s) full = Expand(low, t) m = Trilu<upper = UPPER>(full, k) }"""


def triangle(upper: int = 1, k: int = 1, low: float = -np.inf, columns: str = "n") -> ir.Value:
    text = TRIANGLE.replace("UPPER", str(upper)).replace("ROWS", columns)
    tensors = [ir.tensor(np.array(low, np.float32), name="low"), ir.tensor(np.array(k, np.int64), name="k")]
    return ir.from_onnx_text(text, initializers=tensors).graph.outputs[0]


def test_what_lies_above_the_diagonal_of_a_square():
    """torch.full((n, n), -inf).triu(1), which is DeepSeek's own mask."""
    assert is_causal(triangle())
    assert is_causal(triangle(low=float(np.finfo(np.float32).min)))
    for other in ({"upper": 0}, {"k": 0}, {"k": 2}, {"low": -1e4}, {"low": 1.0}, {"columns": "m"}):
        assert not is_causal(triangle(**other)), other
