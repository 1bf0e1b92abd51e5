"""Every rewrite and every decomposition, held to its contract on its own examples.

Each example runs in float32 and, retyped, in every other dtype that it names: before and after, on random values and on
edge values, in stock onnxruntime; in onnx.reference where onnxruntime lacks a kernel for one of the two; and not at all
in a dtype where both lack one. Both sides run on the same engine, so what differs is the rewrite.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

import porting_passes
from porting_passes.builder import BuildError
from porting_passes.contract import Contract, Example
from porting_passes.decomposition import Decomposition, decompose_node
from porting_passes.decompositions import DECOMPOSITIONS
from porting_passes.operators import add_bodies
from porting_passes.rewrite import Rewrite, RewritePass
from porting_passes.search import Search
from porting_passes.splice import Names

SYMBOL = 3
Feeds = dict[str, np.ndarray]
Engine = Callable[[onnx.ModelProto, Feeds], Feeds]


def rewrites() -> Iterator[Rewrite | Search]:
    for module in pkgutil.iter_modules(porting_passes.__path__):
        if module.name.startswith("fuse_"):
            yield from importlib.import_module(f"porting_passes.{module.name}").REWRITES


def retyped(model: ir.Model, dtype: ir.DataType) -> onnx.ModelProto:
    """The model with every float32 tensor, Cast and constant in another floating type."""
    proto = ir.to_proto(model)
    if dtype == ir.DataType.FLOAT:
        return proto
    graph, float32 = proto.graph, onnx.TensorProto.FLOAT
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == float32:
            value.type.tensor_type.elem_type = dtype.value

    def convert(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == float32:
            array = onnx.numpy_helper.to_array(tensor).astype(dtype.numpy())
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    for tensor in graph.initializer:
        convert(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                convert(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == float32:
                attribute.i = dtype.value
    return proto


def edge_values(dtype: np.dtype, contract: Contract) -> np.ndarray:
    """Zeros, numbers around the smallest normal one, large ones; infinities and NaN where the contract covers them.

    A tolerance speaks of sums and products: their squares must not overflow, which the order of operations decides.
    """
    info = np.finfo(dtype)
    largest = np.sqrt(info.max) / 4 if contract.kind == "tolerance" or not contract.nonfinite else info.max
    finite = [0.0, info.smallest_subnormal, 3 * info.smallest_subnormal, info.tiny, 1.0, 0.5, 2.5, largest]
    values = [sign * np.asarray(v, dtype) for v in finite for sign in (1, -1)]
    return np.array(values + ([np.inf, -np.inf, np.nan] if contract.nonfinite else []), dtype)


def feeds(model: ir.Model, example: Example, contract: Contract) -> Iterator[Feeds]:
    """Random values, then edge values alone, then both mixed."""
    for kind in ("random", "edges", "mixed"):
        rng = np.random.default_rng(7)
        made: Feeds = {}
        for value in model.graph.inputs:
            if value.is_initializer():
                continue
            assert value.shape is not None
            assert value.dtype is not None
            shape = [dim if isinstance(dim, int) else SYMBOL for dim in value.shape]
            dtype = value.dtype.numpy()
            if value.name in example.inputs:
                given = np.asarray(example.inputs[value.name])
                made[value.name] = given.astype(dtype) if given.dtype.kind == "f" else given
            elif dtype.kind == "f":
                array = rng.standard_normal(shape).astype(dtype)
                edges = edge_values(dtype, contract)
                chosen = rng.permutation(np.resize(edges, max(array.size, len(edges))))[: array.size].reshape(shape)
                share = {"random": 0.0, "edges": 1.0, "mixed": 0.3}[kind]
                made[value.name] = np.where(rng.random(shape) < share, chosen, array)
            elif dtype.kind == "b":
                made[value.name] = rng.integers(0, 2, shape).astype(dtype)
            else:
                made[value.name] = rng.integers(1, 9, shape).astype(dtype)
        yield made


def reference(proto: onnx.ModelProto, inputs: Feeds) -> Feeds:
    evaluator = onnx.reference.ReferenceEvaluator(proto)
    with np.errstate(all="ignore"):
        return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))


def declare_outputs(proto: onnx.ModelProto, inputs: Feeds) -> None:
    """Write the shapes of outputs that ONNX does not infer (operators defined by a function) into the model."""
    if all(value.type.tensor_type.HasField("shape") for value in proto.graph.output):
        return
    for value, array in zip(proto.graph.output, reference(proto, inputs).values(), strict=True):
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, array.shape))


def runs(before: onnx.ModelProto, after: onnx.ModelProto, inputs: Feeds, engines: list[Engine]) -> tuple | None:
    """What both models give on the first engine that runs both; None where none does."""
    for engine in engines:
        try:
            return engine(before, inputs), engine(after, inputs)
        except Exception:
            continue
    return None


def apply_rewrite(rewrite: Rewrite | Search, model: ir.Model) -> bool:
    result = RewritePass((rewrite,))(model)
    assert {applied.rule for applied in result.applied} <= {rewrite.name}
    return result.modified


def apply_decomposition(decomposition: Decomposition, model: ir.Model) -> bool:
    """Whether it applied; a form that the opset lacks counts as not."""
    opset, names = model.opset_imports[""], Names(model)
    done = False
    for node in list(model.graph):
        key = (node.domain, node.op_type)
        if key == (decomposition.domain, decomposition.op_type) and decomposition.applies(node, opset) is None:
            try:
                decompose_node(node, decomposition, opset, names)
            except BuildError:
                continue
            done = True
    return done


def with_bodies(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a function for each composite operator, so that any engine runs it."""
    model = ir.from_proto(proto)
    add_bodies(model)
    return ir.to_proto(model)


CONTRACTS = [pytest.param(one, apply_rewrite, id=one.name) for one in rewrites()] + [
    pytest.param(one, apply_decomposition, id=one.name) for one in DECOMPOSITIONS
]


@pytest.mark.parametrize(("one", "apply"), CONTRACTS)
def test_examples_keep_the_contract(one, apply, run_onnxruntime) -> None:
    applied = compared = 0
    violations = []
    for example in one.examples(np.random.default_rng(0)):
        for dtype in example.dtypes:
            where = f"{example.name}, {dtype.name.lower()}"
            before = retyped(example.model, dtype)
            declare_outputs(before, next(feeds(ir.from_proto(before), example, one.contract)))
            onnx.checker.check_model(before, full_check=True)
            model = ir.from_proto(before)
            modified = apply(one, model)
            after = ir.to_proto(model)
            assert modified == example.applies, where
            if not modified:
                assert after.graph == ir.to_proto(ir.from_proto(before)).graph, where
                continue
            applied += 1
            after, before = with_bodies(after), with_bodies(before)
            onnx.checker.check_model(after, full_check=True)
            assert list(after.graph.output) == list(ir.to_proto(ir.from_proto(before)).graph.output), where
            for inputs in feeds(model, example, one.contract):
                found = runs(before, after, inputs, [run_onnxruntime, reference])
                if found is None:
                    continue
                compared += dtype == ir.DataType.FLOAT
                for name, expected in found[0].items():
                    problem = one.contract.violation(np.asarray(expected), np.asarray(found[1][name]))
                    if problem is not None:
                        violations.append(f"{where}, {name}: {problem}")
    assert applied, "no example that applies"
    assert compared, "no engine runs an example"
    assert not violations, "\n".join(violations)


def test_every_fusing_module_is_covered() -> None:
    names = [one.name for one in rewrites()]
    assert "fuse_conv_batch_norm" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("contract", "expected", "actual", "holds"),
    [
        (Contract("exact"), [0.0, np.nan], [0.0, np.nan], True),
        (Contract("exact"), [0.0], [-0.0], False),
        (Contract("exact"), [np.inf], [3e38], False),
        (Contract("ulp", 1, "rounding"), [1.0], [np.nextafter(np.float32(1), np.float32(2))], True),
        (Contract("ulp", 1, "rounding"), [1.0], [1.0 + 3 * 2.0**-23], False),
        (Contract("ulp", 2, "rounding"), [1e-45], [-1e-45], True),
        (Contract("ulp", 1, "rounding"), [np.inf], [np.finfo(np.float32).max], False),
        (Contract("tolerance", 1e-6, "sums"), [100.0, 1e-5], [100.0, 0.0], True),
        (Contract("tolerance", 1e-6, "sums"), [1.0, 1e-5], [1.0, 0.0], False),
        (Contract("tolerance", 1e-6, "sums"), [1.0, np.nan], [1.0, 0.0], False),
        (Contract("tolerance", 1e-6, "sums"), [0.0], [0.0], True),
    ],
)
def test_violations_by_hand(contract, expected, actual, holds) -> None:
    problem = contract.violation(np.array(expected, np.float32), np.array(actual, np.float32))
    assert (problem is None) == holds


def test_a_violation_names_the_worst_element() -> None:
    expected = np.array([1.0, 2.0, 4.0], np.float32)
    problem = Contract("tolerance", 1e-6, "sums").violation(expected, np.array([1.0, 2.5, 4.1], np.float32))
    assert problem is not None
    assert "index 1" in problem
    assert "1.25e" not in problem
    assert "0.125" in problem


def test_shape_and_dtype_are_part_of_every_contract() -> None:
    contract, x = Contract("ulp", 1, "rounding"), np.zeros(2, np.float32)
    assert contract.violation(x, x.reshape(1, 2)) is not None
    assert contract.violation(x, x.astype(np.float64)) is not None
    assert contract.violation(np.array([1, 2]), np.array([1, 3])) == "1 of 2 elements differ"


def test_a_tolerance_scales_with_the_dtype() -> None:
    contract = Contract("tolerance", 1e-6, "sums")
    assert contract.limit(np.dtype(np.float32)) == 1e-6
    assert contract.limit(np.dtype(np.float16)) == pytest.approx(1e-6 * 2**13)
    assert contract.limit(np.dtype(np.float64)) == 1e-9
    assert contract.limit(np.dtype(ml_dtypes.bfloat16)) == 1e-6


def test_a_contract_gives_its_reason() -> None:
    for arguments in (("ulp", 1.0), ("tolerance", 0.0, "sums"), ("exact", 0.0, "", False)):
        with pytest.raises(ValueError):
            Contract(*arguments)
