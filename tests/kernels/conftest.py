"""One operator run three ways: our kernel, stock onnxruntime without optimizations, and onnx.reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from porting_kernels import dtypes, registry

Arrays = list[np.ndarray]
RunNode = Callable[..., Arrays]


def _model(
    op_type: str, inputs: Sequence[np.ndarray | None], attributes: dict[str, Any], opset: int, outputs: int, domain: str
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
    feeds = {n: x for n, x in zip(names, inputs, strict=True) if x is not None}
    node = helper.make_node(op_type, names, [f"y{i}" for i in range(outputs)], domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "node",
        [helper.make_tensor_value_info(n, dtypes.by_numpy(x.dtype).code, x.shape) for n, x in feeds.items()],
        [onnx.ValueInfoProto(name=n) for n in node.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=10)
    return model, feeds


def run_stock(
    op_type: str, *inputs: np.ndarray | None, opset: int = 22, outputs: int = 1, domain: str = "", **attributes: Any
) -> Arrays:
    model, feeds = _model(op_type, inputs, attributes, opset, outputs, domain)
    model = onnx.shape_inference.infer_shapes(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def run_reference(
    op_type: str, *inputs: np.ndarray | None, opset: int = 22, outputs: int = 1, domain: str = "", **attributes: Any
) -> Arrays:
    model, feeds = _model(op_type, inputs, attributes, opset, outputs, domain)
    return list(ReferenceEvaluator(model).run(None, feeds))


def run_kernel(
    op_type: str, *inputs: np.ndarray | None, opset: int = 22, outputs: int = 1, domain: str = "", **attributes: Any
) -> Arrays:
    kernel = registry.lookup(domain, op_type, opset)
    assert kernel is not None, f"no kernel for {op_type} at opset {opset}"
    if kernel.takes_context:
        attributes["context"] = registry.Context(
            version=opset,
            outputs=outputs,
            input_codes=tuple(None if x is None else dtypes.by_numpy(x.dtype).code for x in inputs),
        )
    results = kernel.function(*(None if x is None else dtypes.to_torch(x) for x in inputs), **attributes)
    results = results if isinstance(results, tuple) else (results,)
    assert all(isinstance(r, torch.Tensor) for r in results[:outputs])
    return [dtypes.to_numpy(r) for r in results[:outputs]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stock() -> RunNode:
    """(op_type, *inputs, opset=, outputs=, **attributes) -> outputs of stock onnxruntime."""
    return run_stock


@pytest.fixture(scope="session")
def reference() -> RunNode:
    """(op_type, *inputs, opset=, outputs=, **attributes) -> outputs of onnx.reference."""
    return run_reference


@pytest.fixture(scope="session")
def ours() -> RunNode:
    """(op_type, *inputs, opset=, outputs=, **attributes) -> outputs of our kernel."""
    return run_kernel


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Seeded from the test's own name."""
    return np.random.default_rng(list(request.node.nodeid.encode()))
