from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting_kernels.errors import ShapeError
from porting_passes.bind_shapes import BindShapesError, bind_shapes

TEXT = """<ir_version: 10, opset_import: ["": 18]>
    g (float[batch,3,height,width] x, float[batch] s) => (float[batch,n] y) <float[4,3,3,3] w, float[1] k = {2.0}> {
    c = Conv<pads = [1, 1, 1, 1]>(x, w)  p = GlobalAveragePool(c)  f = Flatten(p)
    u = Unsqueeze(s, one)  y = Mul(f, u) }"""


def model() -> ir.Model:
    text = TEXT.replace("float[1] k = {2.0}", "int64[1] one = {1}").replace("float[4,3,3,3] w, ", "")
    made = ir.from_onnx_text(text.replace("float[batch] s)", "float[batch] s, float[4,3,3,3] w)"))
    weight = made.graph.inputs.pop()
    weight.const_value = ir.tensor(np.ones((4, 3, 3, 3), np.float32), name="w")
    made.graph.register_initializer(weight)
    return made


def shape(made: ir.Model, index: int) -> list[int | str | None]:
    return [d if isinstance(d, int) else d.value for d in made.graph.node(index).outputs[0].shape]


def test_numbers_reach_every_value_that_shares_the_symbol() -> None:
    made = model()
    assert bind_shapes(made, {"x": [2, 3, 32, 24]}) == {}
    assert made.graph.inputs[1].shape == [2]
    assert shape(made, 0) == [2, 4, 32, 24]
    assert made.graph.outputs[0].shape == [2, 4]


def test_names_and_ranges_stay_symbolic_and_single_values_are_fixed() -> None:
    made = model()
    ranges = bind_shapes(made, {"x": [None, None, "h", "w"]}, {"batch": (1, 8), "h": (16, 64), "w": (32, 32)})
    assert ranges == {"batch": (1, 8), "h": (16, 64)}
    assert made.graph.inputs[0].shape == ["batch", 3, "h", 32]
    assert shape(made, 0) == ["batch", 4, None, 32], "ONNX cannot follow a padded symbol"


@pytest.mark.parametrize(
    ("shapes", "dims", "words"),
    [
        ({"z": [1]}, {}, "no input 'z'.*one of x, s"),
        ({}, {"bitch": (1, 8)}, "no dimension 'bitch'.*batch, height, width"),
        ({"x": [1, 3, 32]}, {}, "4 dimensions"),
        ({"x": [1, 4, 32, 32]}, {}, "required *3.*met *4.*dimension 1"),
        ({"x": [2, 3, 32, 32], "s": [3]}, {}, "batch has two values.*required *2.*met *3"),
        ({"x": [2, 3, 32, 32]}, {"batch": (4, 8)}, "4..8.*met *2"),
        ({}, {"batch": (8, 1)}, "lowest <= highest"),
        ({"x": [-1, 3, 32, 32]}, {}, "negative"),
    ],
)
def test_what_cannot_be_bound_is_named(shapes, dims, words: str) -> None:
    with pytest.raises(BindShapesError, match="(?s)" + words) as error:
        bind_shapes(model(), shapes, dims)
    assert error.value.exit_code == 2


def test_shapes_that_do_not_fit_together_are_refused() -> None:
    made = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (float[a,4] x, float[b,5] w) => (float[a,c] y) {
        y = MatMul(x, w) }"""
    )
    assert bind_shapes(made, {"w": [4, 5]}) == {}
    other = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18]> g (float[a,4] x, float[b,5] w) => (float[a,c] y) {
        y = MatMul(x, w) }"""
    )
    with pytest.raises(ShapeError, match="MatMul"):
        bind_shapes(other, {"w": [3, 5]})


def test_subgraphs_and_functions_are_inferred_through() -> None:
    made = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 18, "local": 1]> g (bool c, float[n,2] x) => (float[n,m] y) {
        t = local.f(x)
        y = If(c) <then_branch = a () => (float[n,2] p) { q = Neg(t)  p = Relu(q) },
                   else_branch = b () => (float[n,2] r) { r = Relu(t) }> }
        <domain: "local", opset_import: ["": 18]> f (u) => (v) { w = Neg(u)  v = Abs(w) }"""
    )
    bind_shapes(made, {"x": [5, 2]})
    assert shape(made, 0) == [5, 2]
    assert made.graph.node(1).attributes["then_branch"].as_graph().node(0).outputs[0].shape == [5, 2]
    assert made.graph.outputs[0].shape == [5, 2]


def test_stale_annotations_of_the_file_do_not_stop_binding() -> None:
    text = """<ir_version: 10, opset_import: ["": 18]> g (float[n,4] x) => (float[n,4] y) <float[n,7] a> {
        a = Relu(x)  y = Neg(a) }"""
    made = ir.from_onnx_text(text)
    assert made.graph.node(0).outputs[0].shape == ["n", 7]
    bind_shapes(made, {"x": [3, 4]})
    assert made.graph.inputs[0].shape == [3, 4]
    assert made.graph.outputs[0].shape == [3, 4]


def test_a_new_name_replaces_the_old_one_everywhere() -> None:
    made = model()
    assert bind_shapes(made, {"x": ["N", None, None, None]}) == {}
    assert made.graph.inputs[0].shape == ["N", 3, "height", "width"]
    assert made.graph.inputs[1].shape == ["N"]
    assert shape(made, 1)[0] == "N"
    assert made.graph.outputs[0].shape == ["N", 4]


def test_a_renamed_dimension_has_its_range_under_either_name_and_the_last_one_wins() -> None:
    made = model()
    assert bind_shapes(made, {"x": ["N", None, None, None]}, {"N": (1, 8)}) == {"N": (1, 8)}
    both = {"batch": (1, 8), "N": (2, 2)}
    assert bind_shapes(model(), {"x": ["N", None, None, None]}, {"batch": (1, 8)}) == {"N": (1, 8)}
    made = model()
    assert bind_shapes(made, {"x": ["N", None, None, None]}, both) == {}
    assert made.graph.outputs[0].shape == [2, 4]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"x": ["N", 3, 8, 8], "s": ["M"]}, "batch has two values.*required *N.*met *M"),
        ({"x": ["N", 3, 8, 8], "s": [4]}, "batch has two values.*required *N.*met *4"),
    ],
)
def test_one_dimension_has_one_new_name(shapes, words: str) -> None:
    with pytest.raises(BindShapesError, match="(?s)" + words):
        bind_shapes(model(), shapes)


def test_two_dimensions_may_swap_names() -> None:
    made = model()
    bind_shapes(made, {"x": [None, None, "width", "height"]})
    assert made.graph.inputs[0].shape == ["batch", 3, "width", "height"]
