"""Opset conversion, against stock onnxruntime before and after, and against onnx's own converter where that has one."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
import onnx_ir as ir
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from porting_passes import provenance
from porting_passes.convert_opset import ConvertOpset, OpsetConversionError

OPSETS = (11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25, 28)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model at ``opset``; it has a form at every opset from ``oldest`` to ``newest``."""

    opset: int
    inputs: str
    outputs: str
    body: str
    oldest: int = 11
    newest: int = 28

    def model(self) -> ir.Model:
        header = f'<ir_version: 10, opset_import: ["": {self.opset}]> g ({self.inputs}) => ({self.outputs})'
        return ir.from_onnx_text(f"{header} {self.body}")


X34, Y34 = "float[2,3,4] x", "float[2,3,4] y"
IMAGE = "float[1,2,5,6] x"
CASES = {
    "squeeze_11": Case(11, "float[1,3,1] x", "float[3,1] y", "{ y = Squeeze<axes = [0]>(x) }"),
    "squeeze_all_11": Case(11, "float[1,3,1] x", "float[3] y", "{ y = Squeeze(x) }"),
    "squeeze_23": Case(23, "float[1,3,1] x", "float[1,3] y", "<int64[1] a = {-1}> { y = Squeeze(x, a) }"),
    "squeeze_computed": Case(
        13, "float[1,3] x, int64[1] a", "float[n] y", "{ y = Squeeze(x, a) }", oldest=13
    ),
    "unsqueeze_11": Case(11, "float[3] x", "float[1,3,1] y", "{ y = Unsqueeze<axes = [0, 2]>(x) }"),
    "unsqueeze_18": Case(18, "float[3] x", "float[1,3,1] y", "<int64[2] a = {0, 2}> { y = Unsqueeze(x, a) }"),
    "reduce_sum_11": Case(11, X34, "float[2,4] y", "{ y = ReduceSum<axes = [1], keepdims = 0>(x) }"),
    "reduce_sum_all_11": Case(11, X34, "float[1,1,1] y", "{ y = ReduceSum(x) }"),
    "reduce_sum_13": Case(13, X34, "float[2,1,4] y", "<int64[1] a = {-2}> { y = ReduceSum(x, a) }"),
    "reduce_sum_noop_13": Case(13, X34, Y34, "{ y = ReduceSum<noop_with_empty_axes = 1>(x) }", oldest=13),
    "reduce_mean_11": Case(11, X34, "float[2,1,1] y", "{ y = ReduceMean<axes = [1, 2]>(x) }"),
    "reduce_max_18": Case(18, X34, "float[2,3] y", "<int64[1] a = {2}> { y = ReduceMax<keepdims = 0>(x, a) }"),
    "reduce_max_20": Case(20, X34, "float[1,1,1] y", "{ y = ReduceMax(x) }"),
    "reduce_l2_18": Case(18, X34, "float[2,1,4] y", "<int64[1] a = {1}> { y = ReduceL2(x, a) }"),
    "split_11": Case(11, X34, "float[2,1,4] y, float[2,2,4] z", "{ y, z = Split<axis = 1, split = [1, 2]>(x) }"),
    "split_even_11": Case(11, X34, "float[2,3,2] y, float[2,3,2] z", "{ y, z = Split<axis = -1>(x) }"),
    "split_18": Case(18, X34, "float[2,2,4] y, float[2,1,4] z", "{ y, z = Split<axis = 1, num_outputs = 2>(x) }"),
    "split_sizes_18": Case(
        18, X34, "float[2,2,4] y, float[2,1,4] z", "<int64[2] s = {2, 1}> { y, z = Split<axis = 1>(x, s) }"
    ),
    "split_symbol_18": Case(
        18, "float[n,4] x", "float[a,4] y, float[b,4] z", "{ y, z = Split<num_outputs = 2>(x) }", oldest=18
    ),
    "softmax_11": Case(11, X34, Y34, "{ y = Softmax(x) }"),
    "softmax_axis0_11": Case(11, X34, Y34, "{ y = Softmax<axis = 0>(x) }"),
    "softmax_last_11": Case(11, X34, Y34, "{ y = Softmax<axis = 2>(x) }"),
    "softmax_13": Case(13, X34, Y34, "{ y = Softmax(x) }"),
    "softmax_axis1_18": Case(18, X34, Y34, "{ y = Softmax<axis = 1>(x) }"),
    "log_softmax_11": Case(11, X34, Y34, "{ y = LogSoftmax<axis = -2>(x) }"),
    "log_softmax_axis0_20": Case(20, X34, Y34, "{ y = LogSoftmax<axis = 0>(x) }"),
    "hardmax_11": Case(11, X34, Y34, "{ y = Hardmax(x) }"),
    "hardmax_axis1_13": Case(13, X34, Y34, "{ y = Hardmax<axis = 1>(x) }"),
    "batch_norm_11": Case(
        11, IMAGE, "float[1,2,5,6] y", "<float[2] a = {1.0, 2.0}> { y = BatchNormalization(x, a, a, a, a) }"
    ),
    "batch_norm_20": Case(
        20, IMAGE, "float[1,2,5,6] y", "<float[2] a = {1.0, 2.0}> { y = BatchNormalization(x, a, a, a, a) }"
    ),
    "batch_norm_training_15": Case(
        15,
        IMAGE,
        "float[1,2,5,6] y",
        "<float[2] a = {1.0, 2.0}> { y, m, v = BatchNormalization<training_mode = 1>(x, a, a, a, a) }",
        oldest=14,
    ),
    "dropout_11": Case(11, X34, Y34, "{ y, m = Dropout<ratio = 0.25>(x) }"),
    "dropout_13": Case(13, X34, Y34, "<float r = {0.25}, bool t = {0}> { y = Dropout(x, r, t) }"),
    "pad_11": Case(11, X34, "float[2,4,4] y", "<int64[6] p = {0, 1, 0, 0, 0, 0}> { y = Pad(x, p) }"),
    "pad_axes_18": Case(
        18,
        X34,
        "float[2,6,5] y",
        "<int64[4] p = {0, 1, 1, 2}, float v = {3.0}, int64[2] a = {-1, 1}> { y = Pad(x, p, v, a) }",
    ),
    "pad_reflect_13": Case(
        13, X34, "float[2,3,6] y", '<int64[6] p = {0, 0, 1, 0, 0, 1}> { y = Pad<mode = "reflect">(x, p) }'
    ),
    "pad_wrap_19": Case(
        19, X34, "float[2,3,6] y", '<int64[6] p = {0, 0, 1, 0, 0, 1}> { y = Pad<mode = "wrap">(x, p) }', oldest=19
    ),
    "reshape_13": Case(13, X34, "float[2,12] y", "<int64[2] s = {0, -1}> { y = Reshape(x, s) }"),
    "reshape_allowzero_14": Case(14, X34, "float[4,6] y", "<int64[2] s = {4, 6}> { y = Reshape<allowzero = 1>(x, s) }"),
    "reshape_zero_14": Case(
        14, "float[0,3] x", "float[3,0] y", "<int64[2] s = {3, 0}> { y = Reshape<allowzero = 1>(x, s) }", oldest=14
    ),
    "shape_15": Case(15, X34, "int64[2] y", "{ y = Shape<start = 1>(x) }"),
    "shape_end_21": Case(21, X34, "int64[1] y", "{ y = Shape<start = -3, end = -2>(x) }"),
    "resize_11": Case(
        11,
        IMAGE,
        "float[1,2,10,9] y",
        '<float[0] r = {}, float[4] s = {1.0, 1.0, 2.0, 1.5}> { y = Resize<mode = "linear">(x, r, s) }',
    ),
    "resize_sizes_11": Case(
        11,
        IMAGE,
        "float[1,2,7,3] y",
        '<float[0] r = {}, int64[4] n = {1, 2, 7, 3}> { y = Resize<mode = "nearest">(x, r, r, n) }',
    ),
    "resize_crop_11": Case(
        11,
        IMAGE,
        "float[1,2,4,4] y",
        """<float[8] r = {0.0, 0.0, 0.1, 0.2, 1.0, 1.0, 0.8, 1.2}, float[0] e = {}, int64[4] n = {1, 2, 4, 4}> {
        y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(x, r, e, n) }""",
    ),
    "resize_tf_11": Case(
        11,
        IMAGE,
        "float[1,2,10,12] y",
        """<float[0] r = {}, float[4] s = {1.0, 1.0, 2.0, 2.0}> {
        y = Resize<mode = "nearest", coordinate_transformation_mode = "tf_half_pixel_for_nn">(x, r, s) }""",
        newest=12,
    ),
    "resize_13": Case(
        13,
        IMAGE,
        "float[1,2,10,12] y",
        '<float[4] s = {1.0, 1.0, 2.0, 2.0}> { y = Resize<mode = "cubic">(x, , s) }',
    ),
    "resize_sizes_19": Case(
        19, IMAGE, "float[1,2,8,9] y", '<int64[4] n = {1, 2, 8, 9}> { y = Resize<mode = "linear">(x, , , n) }'
    ),
    "resize_axes_18": Case(
        18,
        IMAGE,
        "float[1,2,10,9] y",
        '<float[2] s = {1.5, 2.0}> { y = Resize<mode = "linear", axes = [3, 2]>(x, , s) }',
    ),
    "resize_axes_sizes_19": Case(
        19, IMAGE, "float[1,2,8,9] y", '<int64[2] n = {8, 9}> { y = Resize<axes = [2, 3]>(x, , , n) }'
    ),
    "resize_antialias_18": Case(
        18,
        IMAGE,
        "float[1,2,3,3] y",
        '<float[4] s = {1.0, 1.0, 0.6, 0.5}> { y = Resize<mode = "linear", antialias = 1>(x, , s) }',
        oldest=18,
    ),
    "resize_symmetric_19": Case(
        19,
        IMAGE,
        "float[1,2,6,8] y",
        """<float[4] s = {1.0, 1.0, 1.3, 1.4}> {
        y = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric">(x, , s) }""",
        oldest=19,
    ),
    "roi_align_11": Case(
        11,
        IMAGE,
        "float[1,2,2,2] y",
        """<float[1,4] r = {0.5, 0.5, 4.0, 3.0}, int64[1] b = {0}> {
        y = RoiAlign<output_height = 2, output_width = 2>(x, r, b) }""",
    ),
    "roi_align_16": Case(
        16,
        IMAGE,
        "float[1,2,2,2] y",
        """<float[1,4] r = {0.5, 0.5, 4.0, 3.0}, int64[1] b = {0}> {
        y = RoiAlign<output_height = 2, output_width = 2>(x, r, b) }""",
        oldest=16,
    ),
    "roi_align_old_mode_16": Case(
        16,
        IMAGE,
        "float[1,2,2,2] y",
        """<float[1,4] r = {0.5, 0.5, 4.0, 3.0}, int64[1] b = {0}> { y = RoiAlign<output_height = 2,
        output_width = 2, coordinate_transformation_mode = "output_half_pixel">(x, r, b) }""",
    ),
    "scatter_elements_13": Case(
        13, X34, Y34, "<int64[1,1,2] i = {0, 1}, float[1,1,2] u = {5.0, 6.0}> { y = ScatterElements(x, i, u) }"
    ),
    "scatter_elements_add_16": Case(
        16,
        X34,
        Y34,
        '<int64[1,1,2] i = {0, 0}, float[1,1,2] u = {5.0, 6.0}> { y = ScatterElements<reduction = "add">(x, i, u) }',
        oldest=16,
    ),
    "scatter_nd_max_18": Case(
        18,
        "float[4] x",
        "float[4] y",
        '<int64[2,1] i = {0, 3}, float[2] u = {5.0, 6.0}> { y = ScatterND<reduction = "max">(x, i, u) }',
        oldest=18,
    ),
    "grid_sample_16": Case(16, f"{IMAGE}, float[1,2,3,2] q", "float[1,2,2,3] y", "{ y = GridSample(x, q) }", oldest=16),
    "grid_sample_cubic_16": Case(
        16,
        f"{IMAGE}, float[1,2,3,2] q",
        "float[1,2,2,3] y",
        '{ y = GridSample<mode = "bicubic">(x, q) }',
        oldest=16,
    ),
    "grid_sample_20": Case(20, f"{IMAGE}, float[1,2,3,2] q", "float[1,2,2,3] y", "{ y = GridSample(x, q) }", oldest=16),
    "grid_sample_volume_20": Case(
        20, "float[1,1,2,3,4] x, float[1,2,2,2,3] q", "float[1,1,2,2,2] y", "{ y = GridSample(x, q) }", oldest=20
    ),
    "group_norm_21": Case(
        21,
        "float[1,4,5] x",
        "float[1,4,5] y",
        "<float[4] s = {1.0, 2.0, 3.0, 4.0}> { y = GroupNormalization<num_groups = 2>(x, s, s) }",
        oldest=21,
    ),
    "quantize_11": Case(
        11,
        X34,
        Y34,
        "<float s = {0.1}, uint8 z = {7}> { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
    ),
    "quantize_21": Case(
        21,
        X34,
        Y34,
        "<float s = {0.1}, int8 z = {7}> { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
    ),
    "quantize_dtype_21": Case(
        21, X34, Y34, "<float s = {0.1}> { q = QuantizeLinear<output_dtype = 3>(x, s)  y = DequantizeLinear(q, s) }"
    ),
    "quantize_axis_13": Case(
        13,
        X34,
        Y34,
        """<float[3] s = {0.1, 0.2, 0.3}, int8[3] z = {0, 1, 2}> {
        q = QuantizeLinear<axis = 1>(x, s, z)  y = DequantizeLinear<axis = 1>(q, s, z) }""",
        oldest=13,
    ),
    "quantize_blocks_21": Case(
        21,
        "float[2,4] x",
        "float[2,4] y",
        """<float[2,2] s = {0.1, 0.2, 0.3, 0.4}, int8[2,2] z = {0, 1, 2, 3}> {
        q = QuantizeLinear<axis = 1, block_size = 2>(x, s, z)
        y = DequantizeLinear<axis = 1, block_size = 2>(q, s, z) }""",
        oldest=21,
    ),
    "cast_19": Case(19, X34, "int32[2,3,4] y", "{ y = Cast<to = 6, saturate = 1>(x) }"),
    "cast_bfloat16_13": Case(13, X34, Y34, "{ b = Cast<to = 16>(x)  y = Cast<to = 1>(b) }", oldest=13),
    "clip_int_13": Case(
        13, "int64[3] x", "int64[3] y", "<int64 a = {-2}, int64 b = {3}> { y = Clip(x, a, b) }", oldest=12
    ),
    "clip_11": Case(11, X34, Y34, "<float b = {0.5}> { y = Clip(x, , b) }"),
    "relu_int_14": Case(14, "int32[3] x", "int32[3] y", "{ y = Relu(x) }", oldest=14),
    "pow_mixed_12": Case(12, X34, Y34, "<int64 e = {2}> { y = Pow(x, e) }", oldest=12),
    "constant_12": Case(
        12, X34, Y34, "{ a = Constant<value_float = 2.0>()  b = Mul(x, a)  y = Add(b, a) }", newest=28
    ),
    "constant_ints_13": Case(13, X34, "float[4,6] y", "{ a = Constant<value_ints = [4, 6]>()  y = Reshape(x, a) }"),
    "arg_max_12": Case(12, X34, "int64[2,1,4] y", "{ y = ArgMax<axis = 1, select_last_index = 0>(x) }"),
    "arg_max_last_12": Case(
        12, X34, "int64[2,1,4] y", "{ y = ArgMax<axis = 1, select_last_index = 1>(x) }", oldest=12
    ),
    "average_pool_11": Case(
        11, IMAGE, "float[1,2,2,3] y", "{ y = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x) }"
    ),
    "average_pool_19": Case(
        19, IMAGE, "float[1,2,4,5] y", "{ y = AveragePool<kernel_shape = [2, 2], dilations = [1, 1]>(x) }"
    ),
    "average_pool_dilated_19": Case(
        19, IMAGE, "float[1,2,3,4] y", "{ y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x) }", oldest=19
    ),
    "max_pool_12": Case(12, IMAGE, "float[1,2,4,5] y", "{ y = MaxPool<kernel_shape = [2, 2]>(x) }"),
    "lp_pool_11": Case(11, IMAGE, "float[1,2,4,5] y", "{ y = LpPool<kernel_shape = [2, 2]>(x) }"),
    "lp_pool_18": Case(
        18, IMAGE, "float[1,2,4,5] y", "{ y = LpPool<kernel_shape = [2, 2], dilations = [1, 1], ceil_mode = 0>(x) }"
    ),
    "gather_nd_12": Case(
        12, X34, "float[2,4] y", "<int64[2,1] i = {0, 2}> { y = GatherND<batch_dims = 1>(x, i) }", oldest=12
    ),
    "depth_to_space_11": Case(11, "float[1,4,2,3] x", "float[1,1,4,6] y", "{ y = DepthToSpace<blocksize = 2>(x) }"),
    "lstm_14": Case(
        14,
        "float[3,1,2] x, float[1,8,2] w, float[1,8,2] r",
        "float[3,1,1,2] y",
        "{ y = LSTM<hidden_size = 2, layout = 0>(x, w, r) }",
    ),
    "dft_17": Case(17, "float[1,4,3,1] x", "float[1,4,3,2] y", "{ y = DFT(x) }", oldest=17),
    "dft_axis_17": Case(17, "float[1,4,3,1] x", "float[1,4,3,2] y", "{ y = DFT<axis = 2>(x) }", oldest=17),
    "dft_20": Case(20, "float[1,4,3,1] x", "float[1,4,3,2] y", "{ y = DFT(x) }", oldest=17),
    "dft_axis_20": Case(20, "float[1,4,3,1] x", "float[1,4,3,2] y", "<int64 a = {1}> { y = DFT(x, , a) }", oldest=17),
    "einsum_12": Case(
        12, "float[2,3] x, float[3,4] w", "float[2,4] y", '{ y = Einsum<equation = "ij,jk->ik">(x, w) }', oldest=12
    ),
    "layer_norm_17": Case(
        17, X34, Y34, "<float[4] s = {1.0, 2.0, 3.0, 4.0}> { y = LayerNormalization(x, s) }", oldest=17
    ),
    "gelu_20": Case(20, X34, Y34, "{ y = Gelu(x) }", oldest=20),
    "range_11": Case(11, "float x", "float[n] y", "<float a = {0.0}, float d = {0.5}> { y = Range(a, x, d) }"),
}  # fmt: skip


def run(model: ir.Model, feeds: dict[str, np.ndarray], run_onnxruntime) -> dict[str, np.ndarray]:
    """In stock onnxruntime; in onnx.reference where onnxruntime has no kernel of that version yet."""
    proto = ir.to_proto(model)
    try:
        return run_onnxruntime(proto, feeds)
    except (ort_errors.NotImplemented, ort_errors.Fail):
        evaluator = onnx.reference.ReferenceEvaluator(proto)
        return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def feeds_of(model: ir.Model, random_feeds) -> dict[str, np.ndarray]:
    feeds = random_feeds(model, n=5)
    if "a" in feeds:
        feeds["a"] = np.array([0])
    if "x" in feeds and feeds["x"].ndim == 0:
        feeds["x"] = np.array(2.6, np.float32)
    return feeds


@pytest.mark.parametrize("name", CASES)
def test_every_opset_gives_the_same_numbers_or_a_reason(name, run_onnxruntime, random_feeds, check_model) -> None:
    case = CASES[name]
    feeds = feeds_of(case.model(), random_feeds)
    before = run(case.model(), feeds, run_onnxruntime)
    for version in OPSETS:
        model = case.model()
        if not case.oldest <= version <= case.newest:
            with pytest.raises(OpsetConversionError):
                ConvertOpset(version)(model)
            continue
        ConvertOpset(version)(model)
        assert model.opset_imports[""] == version
        check_model(model)
        after = run(model, feeds, run_onnxruntime)
        for key, expected in before.items():
            # The same kernels on the same numbers; a Softmax over a transposed axis sums in another order.
            np.testing.assert_allclose(after[key], expected, rtol=2e-6, atol=1e-6, err_msg=f"opset {version}")
            assert after[key].dtype == expected.dtype


GROUP_NORM = Case(
    18,
    "float[2,4,5] x",
    "float[2,4,5] y",
    "<float[2] s = {1.5, -2.0}, float[2] b = {0.5, 0.25}> { y = GroupNormalization<num_groups = 2>(x, s, b) }",
)


def test_group_normalization_gets_a_scale_for_each_channel(run_onnxruntime, random_feeds, check_model) -> None:
    """onnx calls the form of opset 18 deprecated, its checker and its reference refuse it: computed here by hand."""
    model = GROUP_NORM.model()
    feeds = random_feeds(model)
    grouped = feeds["x"].astype(np.float64).reshape(2, 2, 10)
    centred = grouped - grouped.mean(-1, keepdims=True)
    normalized = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    expected = normalized * np.array([[1.5], [-2.0]]) + np.array([[0.5], [0.25]])
    ConvertOpset(21)(model)
    check_model(model)
    np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"].reshape(2, 2, 10), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(OpsetConversionError, match="GroupNormalization does not exist at opset 17"):
        ConvertOpset(17)(GROUP_NORM.model())


def test_all_nodes_without_a_form_are_named_at_once() -> None:
    body = """<bool t = {1}, int64[6] w = {0, 0, 0, 0, 0, 0}> { a = Gelu(x)  b = Softmax(a)  c = Relu(b)
        d = If(t) <then_branch = p () => (float[2,3,4] e) { e = Mish(c) },
                   else_branch = q () => (float[2,3,4] f) { f = Pad<mode = "wrap">(c, w) }>  y = Relu(d) }"""
    model = Case(20, X34, Y34, body).model()
    provenance.set_(model.graph.node(0).outputs[0], provenance.Provenance(("a",), module="encoder.act"))
    with pytest.raises(OpsetConversionError) as error:
        ConvertOpset(11)(model)
    text = str(error.value)
    assert "3 nodes" in text
    assert "encoder.act" in text
    assert "Gelu does not exist at opset 11" in text
    assert "Mish does not exist at opset 11" in text
    assert "mode 'wrap'" in text
    assert error.value.exit_code == 3


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    body = "{ s = ReduceMean(x, a)  g = Gelu(s)  y = Softmax<axis = 0>(g) }"
    model = Case(20, X34, "float[2,1,4] y", "<int64[1] a = {1}>" + body).model()
    before = ir.to_proto(model)
    with pytest.raises(OpsetConversionError, match="Gelu does not exist"):
        ConvertOpset(11)(model)
    assert ir.to_proto(model) == before
    assert len(model.graph.inputs[0].uses()) == 1


def test_an_operator_that_the_model_s_own_opset_lacks_is_refused() -> None:
    model = Case(11, X34, Y34, "{ y = Gelu(x) }").model()
    with pytest.raises(OpsetConversionError, match="does not exist at opset 11, which the model claims"):
        ConvertOpset(20)(model)


CONTROL = """<ir_version: 10, opset_import: ["": %d, "local": 1]>
g (bool c, float[2,3] x) => (float[2,3] y, float[n,2,3] z)
<int64 n = {2}, bool go = {1}> {
    f = local.f(x)
    y = If(c) <then_branch = a () => (float[2,3] p) { s = %s(f)  p = Relu(s) },
               else_branch = b () => (float[2,3] q) { q = Softmax<axis = 0>(f) }>
    w, z = Loop(n, go, x) <body = l (int64 i, bool t, float[2,3] u) => (bool d, float[2,3] v, float[2,3] o)
        { d = Identity(t)  h, k = Split<axis = 0%s>(u)  v = Concat<axis = 0>(k, h)  o = Add(v, f) }>
}
<domain: "local", opset_import: ["": %d]> f (u) => (v) { v = %s }"""


@pytest.mark.parametrize("flag", [True, False])
def test_subgraphs_and_functions_are_converted(flag: bool, run_onnxruntime, random_feeds, check_model) -> None:
    old = CONTROL % (11, "Softmax", "", 11, "ReduceMax<axes = [1]>(u)")
    old = old.replace("float[2,3] y, float[n", "float[2,1] y, float[n").replace("(float[2,3] p)", "(float[2,1] p)")
    old = old.replace("(float[2,3] q)", "(float[2,1] q)")
    new = CONTROL % (18, "Softmax", ", num_outputs = 2", 18, "Softmax<axis = -1>(u)")
    for text, versions in ((old, (13, 18, 23)), (new, (11, 13, 23))):
        model = ir.from_onnx_text(text)
        feeds = {**random_feeds(model), "c": np.array(flag)}
        before = run_onnxruntime(model, feeds)
        for version in versions:
            model = ir.from_onnx_text(text)
            ConvertOpset(version)(model)
            assert next(iter(model.functions.values())).opset_imports[""] == version
            check_model(model)
            for name, array in run_onnxruntime(model, feeds).items():
                np.testing.assert_allclose(array, before[name], rtol=1e-6)


# onnx's converter leaves Hardmax as it is although its axes were flattened before 13, and says so nowhere.
PEERS = [name for name, case in CASES.items() if case.opset <= 13 and case.newest == 28 and name != "hardmax_11"]


@pytest.mark.parametrize("name", PEERS)
def test_onnx_s_own_converter_agrees_where_it_has_an_adapter(name, run_onnxruntime, random_feeds) -> None:
    case = CASES[name]
    compared = 0
    for version in (13, 18, 20):
        if version <= case.opset:
            continue
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(case.model()))
        feeds = feeds_of(case.model(), random_feeds)
        try:
            theirs = run_onnxruntime(onnx.version_converter.convert_version(proto, version), feeds)
        except Exception:
            continue  # no adapter, or a result that does not load
        model = case.model()
        ConvertOpset(version)(model)
        ours = run_onnxruntime(model, feeds)
        compared += 1
        for key, expected in theirs.items():
            np.testing.assert_allclose(ours[key], expected, rtol=2e-6, atol=1e-6, err_msg=f"opset {version}")
    if not compared:
        pytest.skip("onnx's converter has no adapter")


def test_conversion_there_and_back_gives_the_same_numbers(run_onnxruntime, random_feeds) -> None:
    body = """<int64[1] a = {-1}, int64[2] r = {0, -1}, int64[6] p = {0, 1, 0, 0, 0, 0}> {
        m = ReduceMean(x, a)  c = Sub(x, m)  s = Softmax<axis = 1>(c)  l, h = Split<axis = 2, num_outputs = 2>(s)
        q = Pad(l, p)  k = Concat<axis = 1>(q, h)  f = Reshape(k, r)  u = Unsqueeze(f, a)  y = Squeeze(u, a) }"""
    case = Case(18, X34, "float[2,14] y", body)
    feeds = random_feeds(case.model())
    before = run_onnxruntime(case.model(), feeds)["y"]
    for route in ((11, 18), (23, 11, 20), (28, 13)):
        model = case.model()
        for version in route:
            ConvertOpset(version)(model)
        np.testing.assert_allclose(run_onnxruntime(model, feeds)["y"], before, rtol=1e-6)


def chain(length: int) -> ir.Model:
    x = ir.val("x", ir.DataType.FLOAT, [2, 3])
    value, nodes = x, []
    for _ in range(length // 2):
        nodes.append(ir.node("Softmax", [value], {"axis": 0}))
        nodes.append(ir.node("Relu", nodes[-1].outputs))
        value = nodes[-1].outputs[0]
    graph = ir.Graph([x], [value], nodes=nodes, opset_imports={"": 18}, name="chain")
    return ir.Model(graph, ir_version=10)


def test_work_grows_linearly(count_calls) -> None:
    short, long = chain(200), chain(800)
    calls = [count_calls(lambda model=model: ConvertOpset(11)(model)) for model in (short, long)]
    assert calls[1] < 4.2 * calls[0], calls
