"""What the generated contract test cannot see: accuracy against mathematics, special rows, what building reads."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_passes.builder import BuildError
from porting_passes.contract import EXACT
from porting_passes.decomposition import Case, Decomposition, Run, build, decompose_node, examples, node_model
from porting_passes.decompositions import DECOMPOSITIONS, by_operator
from porting_passes.splice import Names

TABLE = {one.name: one for one in DECOMPOSITIONS}


def decomposed(model: ir.Model, name: str) -> ir.Model:
    node, opset = next(iter(model.graph)), model.opset_imports[""]
    assert TABLE[name].applies(node, opset) is None
    decompose_node(node, TABLE[name], opset, Names(model))
    return model


def model_of(op_type: str, *operands, opset: int = 18, **attributes) -> ir.Model:
    model = node_model(op_type, Case("case", operands, attributes), opset)
    assert model is not None
    return model


def test_names_are_unique_and_every_operator_is_found() -> None:
    table = by_operator()
    assert sum(len(group) for group in table.values()) == len(DECOMPOSITIONS)
    twice = (DECOMPOSITIONS[0], DECOMPOSITIONS[0])
    with pytest.raises(ValueError, match="named sqrt_by_pow"):
        by_operator(twice)


def test_every_contract_that_is_not_exact_says_why() -> None:
    assert all(one.contract.reason for one in DECOMPOSITIONS if one.contract != EXACT)


@pytest.mark.parametrize("opset", [11, 24])
def test_erf_is_within_its_bound_of_the_mathematics(opset, run_onnxruntime) -> None:
    x = np.concatenate([np.linspace(-6, 6, 20001), [0.0, -0.0, 1e-30, 40, -40, np.inf, -np.inf]]).astype(np.float32)
    model = decomposed(model_of("Erf", Run(x.shape), opset=opset), "erf_polynomial")
    y = run_onnxruntime(model, {"x0": x})["y0"]
    error = np.abs(y - np.array([math.erf(float(v)) for v in x]))
    assert error.max() <= 5e-7
    assert np.isnan(run_onnxruntime(model, {"x0": np.full_like(x, np.nan)})["y0"]).all()


def test_softplus_and_elu_do_not_overflow(run_onnxruntime) -> None:
    x = np.array([-200, -90, 0, 90, 200, 1e30], np.float32)
    softplus = decomposed(model_of("Softplus", Run(x.shape)), "softplus_by_log")
    np.testing.assert_allclose(
        run_onnxruntime(softplus, {"x0": x})["y0"], np.logaddexp(0, x.astype(np.float64)), rtol=1e-6, atol=1e-7
    )
    elu = decomposed(model_of("Elu", Run(x.shape)), "elu_by_exp")
    expected = np.where(x > 0, x, np.expm1(np.minimum(x, 0).astype(np.float64)))
    np.testing.assert_allclose(run_onnxruntime(elu, {"x0": x})["y0"], expected, rtol=1e-6, atol=1e-7)


def test_half_precision_normalization_does_not_overflow(run_onnxruntime) -> None:
    x = (np.arange(24).reshape(1, 2, 12) * 300 - 3000).astype(np.float16)
    weights = [np.ones(2, np.float16), np.zeros(2, np.float16)]
    half = Run(x.shape, ir.DataType.FLOAT16)
    model = decomposed(model_of("InstanceNormalization", half, *weights), "instance_norm_by_mean")
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(run_onnxruntime(model, {"x0": x})["y0"], expected, atol=2e-3)


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("boolean", [True, False])
def test_a_query_that_sees_no_key_gives_zeros(opset, boolean, run_onnxruntime, random_feeds) -> None:
    seen = np.ones((3, 5), bool)
    seen[1] = False
    mask = seen if boolean else np.where(seen, 0, -np.inf).astype(np.float32)
    q, k = Run((1, 2, 3, 4)), Run((1, 2, 5, 4))
    model = model_of("Attention", q, k, k, mask, opset=opset)
    feeds = random_feeds(model)
    expected = run_onnxruntime(model, feeds)["y0"]
    y = run_onnxruntime(decomposed(model, "attention_by_matmul"), feeds)["y0"]
    np.testing.assert_array_equal(y[:, :, 1], 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "operands", "why"),
    [
        ({"is_causal": 1}, (Run((1, 2, "n", 4)), Run((1, 2, 5, 4))), "a sequence length is unknown"),
        ({}, (Run((1, 2, 3, "d")), Run((1, 2, 5, 4))), "head size is unknown"),
        ({}, (Run((1, "h", 3, 4)), Run((1, 2, 5, 4))), "number of heads is unknown"),
    ],
)
def test_attention_says_what_it_would_have_to_know(attributes, operands, why) -> None:
    q, k = operands
    node = next(iter(model_of("Attention", q, k, k, opset=23, **attributes).graph))
    assert why in str(TABLE["attention_by_matmul"].applies(node, 23))


def test_a_mask_that_may_be_shorter_than_the_keys_is_left_from_opset_24_on() -> None:
    q, k = Run((1, 2, 3, 4)), Run((1, 2, 5, 4))
    for opset, applies in ((23, True), (24, False)):
        node = next(iter(model_of("Attention", q, k, k, Run((3, "m")), opset=opset).graph))
        assert (TABLE["attention_by_matmul"].applies(node, opset) is None) == applies


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_einsum_of_any_two_operands(data) -> None:
    """Random labels in random orders, some summed away, against numpy."""
    labels = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True))
    first = data.draw(st.permutations(data.draw(st.lists(st.sampled_from(labels), min_size=1, unique=True))))
    second = data.draw(st.permutations(data.draw(st.lists(st.sampled_from(labels), min_size=1, unique=True))))
    union = sorted({*first, *second})
    result = data.draw(st.permutations(data.draw(st.lists(st.sampled_from(union), unique=True))))
    equation = f"{''.join(first)},{''.join(second)}->{''.join(result)}"
    sizes = {label: 2 + "abcdef".index(label) % 3 for label in labels}
    shapes = [tuple(sizes[label] for label in term) for term in (first, second)]
    model = model_of("Einsum", *(Run(shape) for shape in shapes), opset=13, equation=equation)
    decomposed(model, "einsum_by_matmul")
    rng = np.random.default_rng(0)
    operands = [rng.integers(-3, 4, shape).astype(np.float32) for shape in shapes]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    (y,) = session.run(None, {"x0": operands[0], "x1": operands[1]})
    np.testing.assert_array_equal(y, np.einsum(equation, *operands))


def test_einsum_leaves_broadcast_labels() -> None:
    node = next(iter(model_of("Einsum", Run((1, 3)), Run((2, 3)), equation="ab,ab->ab").graph))
    assert "broadcast" in str(TABLE["einsum_by_matmul"].applies(node, 18))


def test_a_batch_symbol_survives_reshapes(run_onnxruntime) -> None:
    weight = np.ones((4, 2), np.float32)
    model = decomposed(model_of("MatMul", Run(("n", 3, 4)), weight), "matmul_by_gemm")
    for batch in (1, 5):
        assert run_onnxruntime(model, {"x0": np.ones((batch, 3, 4), np.float32)})["y0"].shape == (batch, 3, 2)


def test_softmax_that_flattens_is_left_below_opset_13() -> None:
    node = next(iter(model_of("Softmax", Run((2, 3, 4)), opset=11, axis=1).graph))
    assert TABLE["softmax_by_exp"].applies(node, 11) is not None
    assert TABLE["softmax_by_exp"].applies(node, 13) is None


def test_a_constant_weight_is_not_read_while_building() -> None:
    def never() -> ir.TensorProtocol:
        raise AssertionError("the weight was read")

    tensor = ir.LazyTensor(never, dtype=ir.DataType.FLOAT, shape=ir.Shape([512, 512]))
    weight = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=tensor.shape, const_value=tensor)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([3, 512]))
    node = ir.node("Gemm", [x, weight], {"transB": 1})
    builder, _ = build(node, TABLE["gemm_plain"], 13)
    assert [new.op_type for new in builder.nodes] == ["Gemm"]


def test_an_unused_output_may_be_left_out_and_a_used_one_may_not() -> None:
    half = Decomposition("half", "TopK", lambda b, node: [b.Relu(node.inputs[0]), None], EXACT, examples("TopK"))
    model = node_model("TopK", Case("both", (Run((3, 5)), np.array([2], np.int64)), outputs=2), 13)
    assert model is not None
    node = model.graph.node(0)
    with pytest.raises(BuildError, match="does not make output 'y1'"):
        build(node, half, 13)
    assert len(model.graph.inputs[0].uses()) == 1, "the refused form must not stay a consumer"
    model.graph.outputs.pop()
    assert build(node, half, 13)[1][1] is None


def test_pass_through_keeps_the_name_of_a_graph_output(check_model) -> None:
    model = decomposed(model_of("Dropout", Run((3, 5))), "dropout_at_inference")
    assert [node.op_type for node in model.graph] == ["Identity"]
    assert [value.name for value in model.graph.outputs] == ["y0"]
    check_model(model)


@pytest.mark.parametrize("name", ["reduce_l1_by_abs", "reduce_max_by_top_k", "reduce_mean_by_sum"])
def test_a_reduction_that_noop_switches_off_reduces_no_axis(name) -> None:
    """As the stock runtime has it, whether the axes are absent or empty."""
    node = next(iter(model_of(TABLE[name].op_type, Run((3, 1)), noop_with_empty_axes=1).graph))
    assert TABLE[name].applies(node, 18) is not None


def test_no_maximum_of_an_empty_axis_is_taken_by_top_k() -> None:
    node = next(iter(model_of("ReduceMax", Run((3, 0)), np.array([1], np.int64)).graph))
    assert TABLE["reduce_max_by_top_k"].applies(node, 18) is not None


@pytest.mark.parametrize(
    ("name", "operands", "attributes"),
    [
        ("einsum_by_matmul", (Run((2, 0, 4)), Run((5, 4))), {"equation": "abc,dc->abd"}),
        ("expand_by_tile", (Run((0, 3)), np.array([2, 0, 3], np.int64)), {}),
    ],
)
def test_an_extent_of_0_is_never_a_copy(name, operands, attributes) -> None:
    """A Reshape target of 0 copies the extent at its place: where the two differ the form is refused."""
    model = model_of(TABLE[name].op_type, *operands, opset=13, **attributes)
    with pytest.raises(BuildError, match="0"):
        build(model.graph.node(0), TABLE[name], 13)
