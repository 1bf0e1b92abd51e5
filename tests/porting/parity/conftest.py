from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from porting.frontends import origin
from porting_passes import provenance
from porting_passes.infer_shapes import InferShapes

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net ({dtype}[2,3,8,8] x) => ({dtype}[2,4,1,1] y) {{
  c = Conv <pads=[1,1,1,1]> (x, w)
  r = Relu (c)
  g = GlobalAveragePool (r)
  y = Softmax <axis=1> (g)
}}"""


@pytest.fixture
def make_net() -> Callable[..., ir.Model]:
    """The same small network as often as one asks, in float32 or float16, each value with its provenance."""

    def make(dtype: str = "float", *, scale: float = 1.0) -> ir.Model:
        weight = scale * np.random.default_rng(5).standard_normal((4, 3, 3, 3))
        array = weight.astype(np.float16 if dtype == "float16" else np.float32)
        model = ir.from_onnx_text(NET.format(dtype=dtype), initializers=[ir.tensor(array, name="w")])
        origin.stamp(model)
        for node in model.graph:
            node.name = f"/net/{node.op_type}"
            value = node.outputs[0]
            provenance.set_(value, provenance.Provenance((value.name or "",), equal=True, file="net.py", line=7))
        return model

    return make


@pytest.fixture
def samples() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(11)
    return [{"x": generator.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(4)]


EXPERT_LAYER = """
  c{i} = CumSum (h{i}, one) a{i} = Mul (c{i}, small) x{i} = Add (h{i}, a{i}) f{i} = Reshape (x{i}, flat)
  l{i} = MatMul (f{i}, gate{i}) s{i} = Softmax <axis=-1> (l{i}) v{i}, e{i} = TopK <axis=1> (s{i}, k)
  t{i} = ReduceSum <keepdims=1> (v{i}, last) w{i} = Div (v{i}, t{i})
  g{i} = Gather (experts{i}, e{i}) u{i} = Unsqueeze (w{i}, last) m{i} = Mul (g{i}, u{i})
  r{i} = ReduceSum <keepdims=0> (m{i}, one) p{i} = Mul (f{i}, r{i}) d{i} = Shape (x{i}) q{i} = Reshape (p{i}, d{i})
  h{n} = Add (x{i}, q{i})"""
ROUTER = ("l", "s", "v", "e", "t", "w")


def expert_model(weights: dict[str, np.ndarray]) -> ir.Model:
    """Two layers that each add up the past of a token and scale it by two of eight vectors, chosen by a router: the
    least that routes, carries a choice to later layers, and to later tokens. Written as an exporter would."""
    body = "".join(EXPERT_LAYER.format(i=i, n=i + 1) for i in range(2))
    text = f"""<ir_version: 10, opset_import: ["": 20]>
    net (int64[batch, sequence] input_ids) => (float[batch, sequence, 16] logits) {{
      h0 = Gather (table, input_ids) {body}
      logits = MatMul (h2, head) }}"""
    integers = {"flat": [-1, 8], "k": [2], "last": [-1], "one": [1]}
    constants = {name: np.array(value, np.int64) for name, value in integers.items()}
    tensors = {**weights, **constants, "small": np.array(1e-4, np.float32)}
    model = ir.from_onnx_text(text, initializers=[ir.tensor(array, name=name) for name, array in tensors.items()])
    InferShapes()(model)
    origin.stamp(model)
    for node in model.graph:
        for value in node.outputs:
            name = value.name or ""
            layer = name[1:] if name[1:].isdigit() and name not in ("h0", "h1", "h2") else None
            layer = str(int(name[1:]) - 1) if name in ("h1", "h2") else layer
            part = ".gate" if name[0] in ROUTER else ""
            module = f"model.layers.{layer}.mlp{part}" if layer is not None else f"model.{name}"
            provenance.set_(value, provenance.Provenance((name,), equal=True, module=module))
    return model


@pytest.fixture
def expert_weights() -> dict[str, np.ndarray]:
    """Weights of `expert_model`: token t is one-hot at t % 8, so that row t % 8 of a gate are its logits, nearly.

    In both layers expert 7 is never chosen, 2 and 3 by no token but 5, and token 5 finds these two equally good for its
    second choice, up to 2e-6, so that a change in the last digits of one weight flips it.
    """
    generator = np.random.default_rng(3)
    table = np.zeros((16, 8), np.float32)
    table[np.arange(16), np.arange(16) % 8] = 1.0
    gates = []
    for _ in range(2):
        gate = np.stack([generator.permutation(np.linspace(-2.0, 2.0, 8)) for _ in range(8)]).astype(np.float32)
        gate[:, 7] = -8.0
        gate[:, [2, 3]] = -3.0  # alike in all rows but one: what the past of a token adds leaves the tie as it is
        gate[5, :7] = [2.0, -1.0, 1.0 + 2e-6, 1.0, -1.5, 0.3, -0.7]
        gates.append(gate)
    experts = [generator.uniform(-1.0, 1.0, (8, 8)).astype(np.float32) for _ in range(2)]
    head = generator.standard_normal((8, 16)).astype(np.float32)
    named = {"table": table, "head": head}
    return named | {f"gate{i}": gates[i] for i in range(2)} | {f"experts{i}": experts[i] for i in range(2)}
