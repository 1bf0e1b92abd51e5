"""Run a one-node model of a composite operator through its body in stock onnxruntime, nothing optimized."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from porting_passes.operators import add_bodies

BFLOAT16 = ir.DataType.BFLOAT16


def _value(name: str, dtype: ir.DataType, dims: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))


def _run_outputs(
    name: str,
    opset: int,
    operands: list[np.ndarray],
    attributes: dict,
    outputs: Sequence[tuple[ir.DataType, int]],
) -> list[np.ndarray]:
    """onnxruntime takes and gives no bfloat16 arrays: these cross the border as float32, cast by the model itself."""
    inputs, nodes, values, feeds = [], [], [], {}
    for k, a in enumerate(operands):
        dtype = ir.DataType.from_numpy(a.dtype)
        value = _value(f"i{k}", ir.DataType.FLOAT if dtype == BFLOAT16 else dtype, a.shape)
        inputs.append(value)
        feeds[f"i{k}"] = a.astype(np.float32) if dtype == BFLOAT16 else a
        if dtype == BFLOAT16:
            nodes.append(ir.node("Cast", [value], {"to": BFLOAT16.value}))
        values.append(nodes[-1].outputs[0] if dtype == BFLOAT16 else value)
    node = ir.node(name, values, attributes, domain="porting", num_outputs=len(outputs))
    nodes.append(node)
    results = []
    for k, (value, (dtype, rank)) in enumerate(zip(node.outputs, outputs, strict=True)):
        if dtype == BFLOAT16:
            nodes.append(ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}))
            value, dtype = nodes[-1].outputs[0], ir.DataType.FLOAT
        value.name, value.type, value.shape = (
            f"y{k}",
            ir.TensorType(dtype),
            ir.Shape([f"d{k}_{i}" for i in range(rank)]),
        )
        results.append(value)
    model = ir.Model(ir.Graph(inputs, results, nodes=nodes, opset_imports={"": opset}, name="g"), ir_version=10)
    add_bodies(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def _run(
    name: str, opset: int, operands: list[np.ndarray], attributes: dict, dtype: ir.DataType, rank: int
) -> np.ndarray:
    return _run_outputs(name, opset, operands, attributes, [(dtype, rank)])[0]


@pytest.fixture
def run_body() -> Callable[..., np.ndarray]:
    """(name, opset, operands, attributes, dtype, rank) -> the one output."""
    return _run


@pytest.fixture(scope="session")
def run_outputs() -> Callable[..., list[np.ndarray]]:
    """(name, opset, operands, attributes, [(dtype, rank), ...]) -> all outputs; bfloat16 ones as float32."""
    return _run_outputs
