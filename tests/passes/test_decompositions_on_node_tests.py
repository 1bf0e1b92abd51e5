"""Every decomposition that applies to a node of ONNX's own backend node tests, against the output the test expects.

With all operands given at run time, and with all but the first as constants. A case is judged on the first engine
(onnxruntime, then onnx.reference) that runs the model before and after and gives the expected output before.
"""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from porting.simulation.node_tests import collect
from porting_passes.builder import BuildError
from porting_passes.decomposition import Decomposition, decompose_node
from porting_passes.decompositions import DECOMPOSITIONS
from porting_passes.infer_shapes import InferShapes
from porting_passes.splice import Names

Feeds = dict[str, np.ndarray]


@functools.cache
def cases() -> dict[str, list[tuple[str, onnx.ModelProto, Feeds, list[np.ndarray]]]]:
    """Name, model, inputs and expected outputs of the tests over plain tensors, by the operators in them."""
    found: dict[str, list[Any]] = {}
    for case in collect():
        if case.model is None or not case.data_sets:
            continue
        inputs, outputs = ([_array(v) for v in values] for values in case.data_sets[0])
        if any(not isinstance(array, np.ndarray) or array.dtype.kind in "OSU" for array in (*inputs, *outputs)):
            continue
        feeds = dict(zip([value.name for value in case.model.graph.input], inputs, strict=False))
        for operator in {node.op_type for node in case.model.graph.node}:
            found.setdefault(operator, []).append((case.name, case.model, feeds, outputs))
    return found


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def with_constants(proto: onnx.ModelProto, feeds: Feeds) -> onnx.ModelProto:
    """The model with every input but the first as an initializer."""
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    for value in list(changed.graph.input)[1:]:
        changed.graph.initializer.append(onnx.numpy_helper.from_array(feeds[value.name], value.name))
        changed.graph.input.remove(value)
    return changed


def decomposed(proto: onnx.ModelProto, one: Decomposition) -> onnx.ModelProto | None:
    """The model with every node decomposed where that applies; None where it applies to none."""
    model = ir.from_proto(proto)
    InferShapes()(model)
    opset, done = model.opset_imports.get("", 1), False
    for node in list(model.graph):
        if (node.domain, node.op_type) == (one.domain, one.op_type) and one.applies(node, opset) is None:
            try:
                decompose_node(node, one, opset, Names(model))
                done = True
            except BuildError:
                continue
    return ir.to_proto(model) if done else None


def reference(proto: onnx.ModelProto, feeds: Feeds) -> Feeds:
    evaluator = ReferenceEvaluator(proto)
    with np.errstate(all="ignore"):
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def problem(expected: list[np.ndarray], found: list[Any]) -> str | None:
    for wanted, met in zip(expected, (np.asarray(array) for array in found), strict=True):
        if met.shape != wanted.shape or met.dtype != wanted.dtype:
            return f"{met.dtype}{met.shape} where {wanted.dtype}{wanted.shape} was expected"
        if wanted.size == 0:
            continue
        wide = [array.astype(np.float64) for array in (wanted, met)]
        floating = wanted.dtype.kind == "f" or wanted.dtype == ml_dtypes.bfloat16
        # Test data went through float32 and through other formulas: a hundred roundings, four of the narrow types.
        few = 4 if wanted.dtype.itemsize < 4 else 100
        limit = few * float(ml_dtypes.finfo(wanted.dtype).eps) if floating else 0.0
        if wanted.dtype == np.float64:
            limit = 1e-6
        if not np.allclose(*wide[::-1], rtol=limit, atol=limit, equal_nan=True):
            return f"off by {np.nanmax(np.abs(wide[0] - wide[1])):.3g}"
    return None


def judged(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds, expected: list[np.ndarray], engines) -> Any:
    """What is wrong with ``after``; None where nothing is, NotImplemented where no engine can tell."""
    for engine in engines:
        try:
            if problem(expected, list(engine(before, feeds).values())) is not None:
                continue
            found = engine(after, feeds)
        except Exception:
            continue
        return problem(expected, list(found.values()))
    return NotImplemented


@pytest.mark.slow
@pytest.mark.parametrize("one", DECOMPOSITIONS, ids=lambda one: one.name)
def test_node_tests_give_what_they_expect(one: Decomposition, run_onnxruntime) -> None:
    wrong, compared = [], 0
    for name, proto, feeds, expected in cases().get(one.op_type, []):
        for kind, before in (("run time", proto), ("constants", with_constants(proto, feeds))):
            after = decomposed(before, one)
            if after is None:
                continue
            given = {value.name: feeds[value.name] for value in before.graph.input}
            found = judged(before, after, given, expected, (run_onnxruntime, reference))
            compared += found is not NotImplemented
            if isinstance(found, str):
                wrong.append(f"{name}, {kind}: {found}")
    assert not wrong, "\n".join(wrong)
    if not compared:
        pytest.skip("no node test that it applies to and an engine runs")
