from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from porting_passes import provenance
from porting_passes.convert_opset import ConvertOpset, OpsetConversionError
from porting_passes.schemas import NEWEST_OPSET


def model_of(opset: int, body: str, inputs: str, outputs: str, weights: str = "") -> ir.Model:
    weights = f"<{weights}>" if weights else ""
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {weights} {{{body}}}'
    )


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


X34, X2345 = "float[3,4] x", "float[2,3,4,5] x"
AXES = "int64[1] axes = {1}"
RESIZE = 'coordinate_transformation_mode = "asymmetric", mode = "nearest", nearest_mode = "floor"'
ROIS = "float[2,4] rois = {0, 0, 5, 4, 1, 1, 6, 6}, int64[2] batch = {0, 0}"

# name: from, to, body, inputs, outputs, weights. Attributes that say no more than what their absence means must not
# stand in the way; defaults that changed must not change the meaning.
CASES: dict[str, tuple[int, int, str, str, str, str]] = {
    "batch norm": (
        *(17, 13, "y = BatchNormalization<training_mode = 0>(x, a, a, a, a)", "float[2,2,3] x", "float[2,2,3] y"),
        "float[2] a = {1, 2}",
    ),
    "resize": (
        18,
        11,
        f'y = Resize<{RESIZE}, antialias = 0, keep_aspect_ratio_policy = "stretch">(x, , s)',
        "float[1,1,3,4] x",
        "float[1,1,6,8] y",
        "float[4] s = {1, 1, 2, 2}",
    ),
    "resize one opset on": (
        *(18, 17, f"y = Resize<{RESIZE}, antialias = 0>(x, , s)", "float[1,1,3,4] x", "float[1,1,6,8] y"),
        "float[4] s = {1, 1, 2, 2}",
    ),
    "sum": (18, 11, "y = ReduceSum<keepdims = 0, noop_with_empty_axes = 0>(x)", X34, "float y", ""),
    "sum over no axes": (18, 11, "y = ReduceSum<keepdims = 0>(x, axes)", X34, "float y", "int64[0] axes = {}"),
    "reshape": (14, 11, "y = Reshape<allowzero = 0>(x, s)", X34, "float[3,2,2] y", "int64[3] s = {0, 2, -1}"),
    "scatter": (
        *(18, 11, 'y = ScatterElements<axis = 1, reduction = "none">(x, i, u)', X34, "float[3,4] y"),
        "int64[1,1] i = {2}, float[1,1] u = {9}",
    ),
    "quantize": (
        *(13, 11, "y = QuantizeLinear<axis = 1>(x, s, z)", X34, "int8[3,4] y", "float s = {0.02}, int8 z = {3}"),
    ),
    "dropout": (11, 13, "y = Dropout<ratio = 0.5>(x)", X34, "float[3,4] y", ""),
    "dropout off": (17, 11, "y = Dropout<seed = 3>(x, r, t)", X34, "float[3,4] y", "float r = {0.5}, bool t = {0}"),
    "grid sample up": (
        *(16, 20, "y = GridSample(x, g)", "float[1,1,4,4] x, float[1,2,3,2] g", "float[1,1,2,3] y", ""),
    ),
    "grid sample down": (
        *(20, 16, "y = GridSample(x, g)", "float[1,1,4,4] x, float[1,2,3,2] g", "float[1,1,2,3] y", ""),
    ),
    "softmax up": (11, 13, "y = Softmax(x)", X2345, "float[2,3,4,5] y", ""),
    "softmax down": (13, 11, "y = Softmax(x)", X2345, "float[2,3,4,5] y", ""),
    "split": (11, 18, "y, z = Split<axis = 1>(x)", X34, "float[3,2] y, float[3,2] z", ""),
    "cast": (19, 11, "y = Cast<to = 7, saturate = 1>(x)", X34, "int64[3,4] y", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_defaults_written_and_not_written(name, run_onnxruntime, random_feeds, check_model) -> None:
    old, new, body, inputs, outputs, weights = CASES[name]
    model = model_of(old, body, inputs, outputs, weights)
    check_model(model)
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)
    declared = list(ir.to_proto(model).graph.output)
    assert ConvertOpset(new)(model).modified
    assert model.opset_imports == {"": new}
    check_model(model)
    assert list(ir.to_proto(model).graph.output) == declared
    for key, actual in run_onnxruntime(model, feeds).items():
        # Softmax over another memory layout sums in another order; everything else is the same computation.
        np.testing.assert_allclose(actual, before[key], rtol=1e-6 if "Softmax" in body else 0, atol=0)


@pytest.mark.parametrize(
    ("old", "new"),
    [(11, 11), (11, NEWEST_OPSET), (NEWEST_OPSET, 11)],
)
def test_a_node_whose_meaning_did_not_change_is_left_alone(old, new, check_model) -> None:
    model = model_of(old, "y = Relu(x)", X34, "float[3,4] y")
    node = model.graph.node(0)
    assert ConvertOpset(new)(model).modified == (old != new)
    assert list(model.graph) == [node]
    check_model(model)


def test_the_same_opset_leaves_the_model_untouched() -> None:
    model = model_of(13, "s = Softmax(x) y = Squeeze(s, axes)", "float[3,1,4] x", "float[3,4] y", AXES)
    before = ir.to_proto(model)
    assert not ConvertOpset(13)(model).modified
    assert ir.to_proto(model) == before


REFUSED = {
    "axes at run time": (18, 11, "y = ReduceSum(x, a)", "float[3,4] x, int64[1] a", "float[m,n] y", "", "run time"),
    "no axes, no reduction": (
        *(18, 11, "y = ReduceSum<noop_with_empty_axes = 1>(x)", X34, "float[3,4] y", "", "noop_with_empty_axes"),
    ),
    "training": (
        *(14, 11, "y, a, b = BatchNormalization<training_mode = 1>(x, s, s, s, s)", "float[2,2] x"),
        *("float[2,2] y, float[2] a, float[2] b", "float[2] s = {1, 2}", "training_mode"),
    ),
    "dropout in training": (*(13, 11, "y = Dropout(x, , t)", "float[3] x, bool t", "float[3] y", "", "training_mode"),),
    "wrap": (19, 18, 'y = Pad<mode = "wrap">(x, p)', "float[4] x", "float[6] y", "int64[2] p = {1, 1}", "wrap"),
    "run-time pads with axes": (
        *(18, 17, "y = Pad(x, p, , axes)", "float[3,4] x, int64[2] p", "float[m,n] y", AXES, "run time"),
    ),
    "allowzero": (
        14,
        13,
        "y = Reshape<allowzero = 1>(x, s)",
        "float[0,4] x",
        "float[0,4] y",
        "int64[2] s = {0, 4}",
        "allowzero",
    ),
    "half pixel symmetric": (
        19,
        18,
        'y = Resize<coordinate_transformation_mode = "half_pixel_symmetric">(x, , s)',
        "float[4] x",
        "float[8] y",
        "float[1] s = {2}",
        "half_pixel_symmetric",
    ),
    "antialias": (
        *(18, 17, 'y = Resize<antialias = 1, mode = "linear">(x, , s)', "float[4] x", "float[2] y"),
        *("float[1] s = {0.5}", "antialias"),
    ),
    "tensorflow pixels": (
        11,
        13,
        'y = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(x, r, s)',
        "float[1,1,4,4] x",
        "float[1,1,8,8] y",
        "float[0] r = {}, float[4] s = {1, 1, 2, 2}",
        "tf_half_pixel_for_nn",
    ),
    "half pixel rois": (
        *(16, 13, "y = RoiAlign(x, rois, batch)", "float[1,2,8,8] x", "float[2,2,1,1] y", ROIS, "output_half_pixel"),
    ),
    "scatter max": (
        *(18, 16, 'y = ScatterElements<reduction = "max">(x, i, u)', X34, "float[3,4] y"),
        *("int64[1,1] i = {2}, float[1,1] u = {9}", "'max'"),
    ),
    "scatter add": (
        *(16, 13, 'y = ScatterND<reduction = "add">(x, i, u)', X34, "float[3,4] y"),
        *("int64[1,2] i = {1, 2}, float[1] u = {9}", "reduction"),
    ),
    "an operator that is not there": (20, 11, "y = Gelu(x)", X34, "float[3,4] y", "", "does not exist"),
    "a dtype that is not there": (13, 11, "y = Pow(x, x)", "int32[3] x", "int32[3] y", "", ""),
    "scales per channel": (
        *(
            13,
            11,
            "y = DequantizeLinear<axis = 1>(x, s)",
            "int8[3,2] x",
            "float[3,2] y",
            "float[2] s = {1, 2}",
            "scale",
        ),
    ),
    "quantizing per channel": (
        13,
        11,
        "y = QuantizeLinear<axis = 0>(x, s, z)",
        X34,
        "int8[3,4] y",
        "float[3] s = {1, 2, 3}, int8[3] z = {0, 0, 0}",
        "scale",
    ),
    "uneven split of a symbol": (
        *(18, 17, "y, z = Split<num_outputs = 2>(x)", "float[n] x", "float[k] y, float[m] z", "", "num_outputs"),
    ),
    "softmax of unknown rank": (13, 11, "y = Softmax<axis = 0>(x)", "float x", "float y", "", "rank"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_there_is_refused_with_a_reason(name) -> None:
    old, new, body, inputs, outputs, weights, reason = REFUSED[name]
    model = model_of(old, body, inputs, outputs, weights)
    if name == "softmax of unknown rank":
        model.graph.inputs[0].shape = None
    if name == "a dtype that is not there":
        model.graph.inputs[0].dtype = ir.DataType.BFLOAT16
    with pytest.raises(OpsetConversionError) as failure:
        ConvertOpset(new)(model)
    assert failure.value.exit_code == 3
    assert reason in str(failure.value)
    assert f"opset {new}" in str(failure.value)


def test_a_refusal_names_all_nodes_in_the_users_terms() -> None:
    body = "a = Gelu(x) b = Relu(a) c = Gelu(b) d = ReduceMax<noop_with_empty_axes = 1>(c) y = Mish(d)"
    model = model_of(20, body, X34, "float[3,4] y")
    for index, node in enumerate(model.graph):
        place = provenance.Provenance(
            sources=(node.outputs[0].name,), module=f"net.layers.{index}", file="net.py", line=7
        )
        provenance.set_(node.outputs[0], place)
    with pytest.raises(OpsetConversionError) as failure:
        ConvertOpset(17)(model)
    text = str(failure.value)
    assert text.startswith("4 nodes without a form at opset 17")
    for index in (0, 2, 3, 4):
        assert f"net.layers.{index} (net.py:7)" in text
    assert "net.layers.1 " not in text


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    body = "s = ReduceMean<keepdims = 1>(x, axes) g = Gelu(s) y = Softmax<axis = 0>(g)"
    model = model_of(20, body, X34, "float[3,1] y", AXES)
    before = ir.to_proto(model)
    with pytest.raises(OpsetConversionError):
        ConvertOpset(11)(model)
    assert ir.to_proto(model) == before


@pytest.mark.parametrize("version", [10, NEWEST_OPSET + 1])
def test_an_opset_that_we_do_not_know_is_refused(version) -> None:
    with pytest.raises(OpsetConversionError, match=f"no opset {version}"):
        ConvertOpset(version)


BRANCHES = """<ir_version: 8, opset_import: ["": %d]> g (float[3,4] x, bool c) => (float[3] y) {
    y = If (c) <
        then_branch = then () => (float[3] t) { %s },
        else_branch = else () => (float[3] e) { h = Softmax<axis = 1>(x) %s }
    >
}"""


@pytest.mark.parametrize(("old", "new"), [(11, 13), (13, 11), (11, 21), (18, 11)])
@pytest.mark.parametrize("condition", [True, False])
def test_subgraphs_are_converted(old, new, condition, run_onnxruntime, random_feeds, check_model) -> None:
    if old < 13:
        then, other = "t = ReduceSum<axes = [1], keepdims = 0>(x)", "e = ReduceSum<axes = [1], keepdims = 0>(h)"
    else:
        axes = "a = Constant<value = int64[1] {1}>()"
        then, other = (
            f"{axes} t = ReduceSum<keepdims = 0>(x, a)",
            "b = Constant<value = int64[1] {1}>() e = ReduceSum<keepdims = 0>(h, b)",
        )
    model = ir.from_onnx_text(BRANCHES % (old, then, other))
    feeds = random_feeds(model) | {"c": np.array(condition)}
    before = run_onnxruntime(model, feeds)
    ConvertOpset(new)(model)
    check_model(model)
    np.testing.assert_array_equal(run_onnxruntime(model, feeds)["y"], before["y"])


FUNCTION = """<ir_version: 8, opset_import: ["": %d, "local": 1]> g (float[3,4] x) => (float[3] y) {
    y = local.total(x)
}
<domain: "local", opset_import: ["": %d]> total (v) => (r) { %s }"""


@pytest.mark.parametrize(
    ("old", "new", "body"),
    [
        (11, 13, "h = Relu(v) r = ReduceSum<axes = [1], keepdims = 0>(h)"),
        (11, 18, "h = ReduceMax<axes = [1]>(v) r = Squeeze<axes = [1]>(h)"),
        (18, 11, "a = Constant<value = int64[1] {1}>() h = ReduceMax(v, a) r = Squeeze(h, a)"),
    ],
)
def test_functions_are_converted(old, new, body, run_onnxruntime, random_feeds, check_model) -> None:
    model = ir.from_onnx_text(FUNCTION % (old, old, body))
    feeds = random_feeds(model)
    before = run_onnxruntime(model, feeds)
    ConvertOpset(new)(model)
    (function,) = model.functions.values()
    assert function.opset_imports[""] == new
    check_model(model)
    # Through the file: what a function's graph cannot hold would be lost here.
    saved = onnx.load_from_string(ir.to_proto(model).SerializeToString())
    np.testing.assert_array_equal(run_onnxruntime(saved, feeds)["y"], before["y"])


def test_functions_of_another_opset_than_the_model_come_along(run_onnxruntime, random_feeds) -> None:
    model = ir.from_onnx_text(FUNCTION % (13, 11, "h = Relu(v) r = ReduceSum<axes = [1], keepdims = 0>(h)"))
    feeds = random_feeds(model)
    ConvertOpset(13)(model)
    (function,) = model.functions.values()
    assert function.opset_imports[""] == 13
    expected = np.maximum(feeds["x"], 0).sum(axis=1)
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], expected, rtol=1e-6)


def test_an_attribute_that_is_a_parameter_of_its_function_is_not_lost() -> None:
    text = """<ir_version: 8, opset_import: ["": 11, "local": 1]> g (float[3,1,4] x) => (float[3,4] y) {
        y = local.drop<axes = [1]>(x)
    }
    <domain: "local", opset_import: ["": 11]> drop <axes>(v) => (r) { r = Squeeze<axes: ints = @axes>(v) }"""
    model = ir.from_onnx_text(text)
    with pytest.raises(OpsetConversionError, match="axes"):
        ConvertOpset(13)(model)


def test_nodes_of_other_domains_are_not_looked_at() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["": 13, "porting": 1]> g (float[3] x) => (int8[3] y) {'
        " y = porting.Quantize<scale = 2.0, offset = 0>(x) }"
    )
    ConvertOpset(11)(model)
    assert model.opset_imports == {"": 11, "porting": 1}
    assert operators(model) == ["Quantize"]


def test_values_keep_their_names_and_provenance() -> None:
    model = model_of(11, "h = ReduceMean<axes = [1]>(x) y = Softmax<axis = 0>(h)", X34, "float[3,1] y")
    for node in model.graph:
        name = node.outputs[0].name
        provenance.set_(node.outputs[0], provenance.Provenance(sources=(name,), equal=True, module=f"net.{name}"))
    ConvertOpset(18)(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in ("h", "y"):
        assert provenance.of(values[name]).sources == (name,)
        assert provenance.of(values[name]).equal
    assert provenance.of(values["h"]).rules == ("convert_ReduceMean",)
