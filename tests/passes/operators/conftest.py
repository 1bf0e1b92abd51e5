"""Run a one-node model of a composite operator through its body in stock onnxruntime, nothing optimized."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from porting_passes.operators import add_bodies


def _run(
    name: str, opset: int, operands: list[np.ndarray], attributes: dict, dtype: ir.DataType, rank: int
) -> np.ndarray:
    values = [
        ir.Value(name=f"i{k}", type=ir.TensorType(ir.DataType.from_numpy(a.dtype)), shape=ir.Shape(a.shape))
        for k, a in enumerate(operands)
    ]
    node = ir.node(name, values, attributes, domain="porting")
    (output,) = node.outputs
    output.name, output.type, output.shape = "y", ir.TensorType(dtype), ir.Shape([f"d{i}" for i in range(rank)])
    model = ir.Model(ir.Graph(values, [output], nodes=[node], opset_imports={"": opset}, name="g"), ir_version=10)
    add_bodies(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {f"i{k}": a for k, a in enumerate(operands)})[0]


@pytest.fixture
def run_body() -> Callable[..., np.ndarray]:
    return _run
