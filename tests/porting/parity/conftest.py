from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from porting.frontends import origin
from porting_passes import provenance

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
