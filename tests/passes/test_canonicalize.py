from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from porting_passes import provenance
from porting_passes.canonicalize import Canonicalize
from porting_passes.deduplicate_initializers import DeduplicateInitializers
from porting_passes.eliminate_dead_code import EliminateDeadCode
from porting_passes.eliminate_identity import EliminateIdentity
from porting_passes.fold_constants import FoldConstants
from porting_passes.freeze_defaults import FreezeDefaults
from porting_passes.infer_shapes import InferShapes


def operators(scope: ir.Graph | ir.Function) -> list[str]:
    return [node.op_type for node in scope]


def text(body: str, *, inputs: str = "float[2,3] x", outputs: str = "float[2,3] y", opset: int = 18) -> ir.Model:
    header = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({outputs})'
    return ir.from_onnx_text(f"{header} {body}")


FLATTEN = """<float[4] unused = {1.0, 2.0, 3.0, 4.0}> {
    s = Shape(x)  zero = Constant<value_int = 0>()  b = Gather(s, zero)
    axes = Constant<value_ints = [0]>()  b1 = Unsqueeze(b, axes)  m = Constant<value_ints = [-1]>()
    target = Concat<axis = 0>(b1, m)  r = Reshape(x, target)  i = Identity(r)  d, mask = Dropout(i)  y = Relu(d) }"""


def test_folds_an_exported_flatten_to_one_reshape(run_onnxruntime, random_feeds, check_model) -> None:
    model = text(FLATTEN, inputs="float[2,3,2] x", outputs="float[2,6] y")
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)
    assert Canonicalize()(model).modified
    assert operators(model.graph) == ["Reshape", "Relu"]
    assert list(model.graph.initializers) == ["target"]
    check_model(model)
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], before["y"])
    assert not Canonicalize()(model).modified, "the canonical form is a fixpoint"


def test_a_symbolic_dimension_stays_but_static_ones_fold() -> None:
    body = """{ s = Shape(x)  one = Constant<value_ints = [1]>()  two = Constant<value_ints = [2]>()
        n = Gather(s, one)  m = Slice(s, one, two)  t = Concat<axis = 0>(n, m)  c = Add(t, t)  q = Mul(c, s)
        y = Cast<to = 1>(q) }"""
    model = text(body, inputs="float[batch,3] x", outputs="float[2] y")
    Canonicalize()(model)
    assert operators(model.graph) == ["Shape", "Mul", "Cast"]
    assert model.graph.initializers["c"].const_value.numpy().tolist() == [6, 6]


def test_what_must_not_be_folded_stays() -> None:
    body = """<float[2,3] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, float s = {0.5}, int8 z = {0},
        int64[2] big = {1000, 1000}> {
        q = QuantizeLinear(w, s, z)  d = DequantizeLinear(q, s, z)  n = RandomNormalLike(w)
        e = Expand(s, big)  r = ReduceSum<keepdims = 0>(e)
        a = Add(x, d)  b = Add(a, n)  y = Add(b, r) }"""
    model = text(body)
    FoldConstants()(model)
    assert sorted(set(operators(model.graph))) == [
        "Add", "DequantizeLinear", "Expand", "QuantizeLinear", "RandomNormalLike", "ReduceSum"
    ]  # fmt: skip


def test_folding_keeps_nan_and_infinity() -> None:
    body = """{ o = Constant<value_float = 0.0>()  one = Constant<value_float = 1.0>()  inf = Div(one, o)
        nan = Mul(inf, o)  a = Add(x, inf)  b = Mul(x, o)  c = Add(b, nan)  y = Add(a, c) }"""
    model = text(body)
    Canonicalize()(model)
    assert np.isposinf(model.graph.initializers["inf"].const_value.numpy())
    assert np.isnan(model.graph.initializers["nan"].const_value.numpy())
    assert operators(model.graph) == ["Add", "Mul", "Add", "Add"], "x * 0 is no constant: x may be NaN"


def test_folding_in_subgraphs_and_functions_uses_captured_constants(run_onnxruntime, random_feeds, check_model) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18, "local": 1]> g (bool c, float[2] x) => (float[2] y) {
        two = Constant<value_float = 2.0>()  f = local.f(x)
        y = If(c) <then_branch = a () => (float[2] p) { four = Mul(two, two)  p = Mul(f, four) },
                   else_branch = b () => (float[2] q) { i = Identity(f)  q = Relu(i) }>
        }
        <domain: "local", opset_import: ["": 18]> f (u) => (v) {
            h = Constant<value_float = 0.5>()  k = Add(h, h)  w = Identity(u)  v = Sub(w, k) }"""
    )
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)
    Canonicalize()(model)
    branch = model.graph.node(1).attributes["then_branch"].as_graph()
    assert operators(branch) == ["Mul"]
    assert branch.initializers["four"].const_value.numpy() == 4
    assert operators(next(iter(model.functions.values()))) == ["Constant", "Sub"]
    check_model(model)
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], before["y"])


@pytest.mark.parametrize("opset", [11, 13, 18, 24])
def test_folded_values_equal_onnxruntime(opset: int, run_onnxruntime, check_model) -> None:
    body = """<float[2,3] w = {1.5, -2.0, 3.25, 0.0, 5.0, -6.0}, int64[2] p = {1, 0}> {
        t = Transpose<perm = [1, 0]>(w)  g = Gather<axis = 1>(t, p)  c = Cast<to = 7>(g)  f = Cast<to = 1>(c)
        e = Exp(g)  m = MatMul(w, e)  k = Concat<axis = 0>(m, m)  h = MatMul(k, m)
        r = MatMul(w, f)  d = MatMul(k, r)  a = Add(x, h)  y = Add(a, d) }"""
    model = text(body, inputs="float[4,2] x", outputs="float[4,2] y", opset=opset)
    feeds = {"x": np.zeros((4, 2), np.float32)}
    before = run_onnxruntime(model, feeds)
    Canonicalize()(model)
    assert operators(model.graph) == ["Add", "Add"]
    check_model(model)
    # Two float32 matrix products with sums in another order: a few units in the last place.
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before["y"], rtol=1e-5)


def test_identity_hands_its_provenance_and_name_on() -> None:
    model = text("{ a = Relu(x)  b = Identity(a)  y = Identity(b)  z = Identity(x) }", outputs="float[2,3] y, float z")
    for value in (model.graph.node(0).outputs[0], model.graph.node(1).outputs[0]):
        provenance.set_(value, provenance.Provenance((value.name,), equal=True))
    assert EliminateIdentity()(model).modified
    assert operators(model.graph) == ["Relu", "Identity"]
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    kept = provenance.of(model.graph.outputs[0])
    assert kept.sources == ("a", "b")
    assert kept.equal


IDENTITIES = {
    "cast": "{ y = Cast<to = 1>(a) }",
    "transpose": "{ y = Transpose<perm = [0, 1]>(a) }",
    "concat": "{ y = Concat<axis = 1>(a) }",
    "reshape": "{ t = Constant<value_ints = [0, -1]>()  y = Reshape(a, t) }",
    "expand": "{ t = Constant<value_ints = [2, 1]>()  y = Expand(a, t) }",
    "pad": "{ t = Constant<value_ints = [0, 0, 0, 0]>()  y = Pad(a, t) }",
    "tile": "{ t = Constant<value_ints = [1, 1]>()  y = Tile(a, t) }",
}
NOT_IDENTITIES = {
    "cast": "{ b = Cast<to = 10>(a)  y = Cast<to = 1>(b) }",
    "transpose": "{ b = Transpose<perm = [1, 0]>(a)  y = Transpose(b) }",
    "reshape": "{ t = Constant<value_ints = [3, 2]>()  b = Reshape(a, t)  y = Transpose(b) }",
    "expand": "{ t = Constant<value_ints = [1, 1, 1]>()  b = Expand(a, t)  y = Squeeze(b) }",
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_nodes_that_are_identities_are_removed(name: str, check_model) -> None:
    model = text("{ a = Relu(x) " + IDENTITIES[name][1:])
    Canonicalize()(model)
    assert operators(model.graph) == ["Relu"]
    check_model(model)


@pytest.mark.parametrize("name", NOT_IDENTITIES)
def test_nodes_that_are_no_identities_stay(name: str) -> None:
    model = text("{ a = Relu(x) " + NOT_IDENTITIES[name][1:])
    Canonicalize()(model)
    assert len(operators(model.graph)) == 3


def test_a_dropout_whose_mask_is_read_stays() -> None:
    model = text("{ a = Relu(x)  y, m = Dropout(a) }", outputs="float[2,3] y, bool[2,3] m")
    assert not EliminateIdentity()(model).modified


def test_equal_initializers_merge_by_bytes_into_the_first() -> None:
    arrays = {
        "a": np.array([1, 2], np.float32),
        "b": np.array([1, 2], np.float32),
        "c": np.array([1, 2], np.float64),
        "d": np.array([[1, 2]], np.float32),
        "e": np.array([0.0, 2], np.float32),
        "f": np.array([-0.0, 2], np.float32),
        "g": np.array([np.nan, 2], np.float32),
        "h": np.array([np.nan, 2], np.float32),
    }
    values = [ir.val(name, const_value=ir.tensor(array)) for name, array in arrays.items()]
    sink = ir.node("Sink", values, domain="local")
    graph = ir.Graph([], sink.outputs, nodes=[sink], initializers=values, opset_imports={"": 18, "local": 1}, name="g")
    model = ir.Model(graph, ir_version=10)
    DeduplicateInitializers()(model)
    assert list(graph.initializers) == ["a", "c", "d", "e", "f", "g"]
    assert [v.name for v in sink.inputs] == ["a", "a", "c", "d", "e", "f", "g", "g"]
    assert not DeduplicateInitializers()(model).modified


def test_duplicates_in_sibling_branches_do_not_merge_but_outer_ones_do(check_model) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (bool c, float[2] x) => (float[2] y)
        <float[2] w = {1.0, 2.0}> {
        t = Mul(x, w)
        y = If(c) <then_branch = a () => (float[2] p) <float[2] u = {1.0, 2.0}, float[2] k = {3.0, 4.0}>
                      { s = Mul(t, u)  p = Mul(s, k) },
                   else_branch = b () => (float[2] q) <float[2] l = {3.0, 4.0}> { q = Mul(t, l) }> }"""
    )
    DeduplicateInitializers()(model)
    left, right = (model.graph.node(1).attributes[n].as_graph() for n in ("then_branch", "else_branch"))
    assert list(left.initializers) == ["k"]
    assert list(right.initializers) == ["l"]
    check_model(model)


def test_dead_code_goes_and_the_interface_stays() -> None:
    model = text("<float dead = {1.0}> { a = Add(z, dead)  b = Relu(a)  y = Relu(x) }", inputs="float[2,3] x, float z")
    assert EliminateDeadCode()(model).modified
    assert operators(model.graph) == ["Relu"]
    assert [v.name for v in model.graph.inputs] == ["x", "z"]
    assert not model.graph.initializers


def test_listed_weights_of_old_files_are_frozen_and_defaults_of_new_ones_stay() -> None:
    body = "<float[3] w = {1.0, 2.0, 3.0}> { y = Mul(x, w) }"
    old = text(body, inputs="float[3] w, float[2,3] x")
    old.ir_version = 3
    assert FreezeDefaults()(old).modified
    assert [v.name for v in old.graph.inputs] == ["x"]
    assert old.ir_version == 4
    new = text(body, inputs="float[3] w, float[2,3] x")
    assert not FreezeDefaults()(new).modified
    FoldConstants()(new)
    assert [v.name for v in new.graph.inputs] == ["w", "x"]


def test_shape_inference_reads_no_large_weight() -> None:
    def read() -> ir.Tensor:
        raise AssertionError("a large weight was read")

    weight = ir.LazyTensor(read, ir.DataType.FLOAT, ir.Shape([1 << 14, 1 << 14]), name="w")
    x = ir.val("x", ir.DataType.FLOAT, ["batch", 1 << 14])
    w = ir.val("w", const_value=weight)
    node = ir.node("MatMul", [x, w])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 18}, name="g")
    InferShapes(strict=True)(ir.Model(graph, ir_version=10))
    assert node.outputs[0].shape == ["batch", 1 << 14]
    assert w.const_value is weight


def test_shapes_reach_subgraphs() -> None:
    model = text(
        """{ y = If(c) <then_branch = a () => (float[2,3] p) { t = Transpose(x)  p = Transpose(t) },
                      else_branch = b () => (float[2,3] q) { q = Relu(x) }> }""",
        inputs="bool c, float[2,3] x",
    )
    InferShapes()(model)
    assert model.graph.node(0).attributes["then_branch"].as_graph().node(0).outputs[0].shape == [3, 2]


def test_names_of_new_constants_are_unique_in_a_large_canonical_model(check_model) -> None:
    model = text(
        "{ a = Constant<value_float = 1.0>()  b = Add(x, a)  c = Constant<value_float = 1.0>()  y = Add(b, c) }"
    )
    Canonicalize()(model)
    assert list(model.graph.initializers) == ["a"]
    onnx.checker.check_model(ir.to_proto(model))
    check_model(model)
