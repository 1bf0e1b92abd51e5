"""Functions that pass tests share, as fixtures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

Run = Callable[[Any, Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def _run(model: ir.Model | onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [value.name for value in session.get_inputs()]
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: inputs[name] for name in wanted}), strict=True))


@pytest.fixture(scope="session")
def run_onnxruntime() -> Run:
    """run(model, inputs) -> outputs by name, in stock onnxruntime with every optimization off, on one thread."""
    return _run


def _check(model: ir.Model) -> None:
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    names = [o.name for node in ir.traversal.RecursiveGraphIterator(model.graph) for o in node.outputs if o.name]
    assert len(names) == len(set(names)), "a value name is used twice"


@pytest.fixture(scope="session")
def check_model() -> Callable[[ir.Model], None]:
    """check(model): onnx's full check, and no value name twice."""
    return _check


def _feeds(model: ir.Model, seed: int = 0, **dims: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else dims[str(dim.value)] for dim in value.shape]
        dtype = value.dtype.numpy()
        if dtype == np.bool_:
            feeds[value.name] = rng.integers(0, 2, shape).astype(np.bool_)
        elif dtype.kind in "iu":
            feeds[value.name] = rng.integers(0 if dtype.kind == "u" else -8, 8, shape).astype(dtype)
        else:
            assert dtype.kind == "f" or dtype == ml_dtypes.bfloat16
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


@pytest.fixture(scope="session")
def random_feeds() -> Callable[..., dict[str, np.ndarray]]:
    """feeds(model, seed=0, **dims) -> one seeded array a graph input; ``dims`` give extents to symbols."""
    return _feeds


def _count_calls(work: Callable[[], object]) -> int:
    calls = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


@pytest.fixture(scope="session")
def count_calls() -> Callable[[Callable[[], object]], int]:
    """count(work): how many function calls ``work()`` makes; unlike seconds, the same however busy the machine is."""
    return _count_calls
