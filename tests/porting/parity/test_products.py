from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from porting.emit import write_model
from porting.frontends import origin
from porting.parity import anchors
from porting.parity.products import SpreadSums, quantized
from porting_passes.quantize_dynamic import QUANTIZED_NUMBERS

GENERATOR = torch.Generator().manual_seed(8)


def spread_of(reference, result):
    sums = SpreadSums()
    sums.update(reference, result)
    return sums.spread()


def test_a_channel_with_another_scale_stands_out_of_a_small_norm():
    reference = torch.randn(64, 200, generator=GENERATOR)
    result = reference.clone()
    result[:, 17] *= 2
    spread = spread_of(reference, result)
    assert spread.channel == 17
    assert 0.8 < spread.channel_rel_l2 <= 1.0, "the channel's own energy, or the mean where that is more"
    assert float((result - reference).norm() / reference.norm()) < 0.1, "the whole tensor hides it"


def test_a_row_with_another_scale_stands_out():
    reference = torch.randn(5, 40, 16, generator=GENERATOR)
    result = reference.clone()
    result[3, 7] *= 1.5
    spread = spread_of(reference, result)
    assert 0.3 < spread.row_rel_l2 < 0.51
    assert spread.channel_rel_l2 < 0.15


def test_a_channel_of_next_to_nothing_is_measured_against_the_mean():
    reference = torch.ones(10, 4)
    reference[:, 2] = 1e-6
    result = reference.clone()
    result[:, 2] = -1e-6
    assert spread_of(reference, result).channel_rel_l2 == pytest.approx(2e-6 / 0.75**0.5, rel=1e-3)


def test_zeros_have_no_error_unless_the_result_is_something():
    zeros = torch.zeros(3, 4)
    assert spread_of(zeros, zeros).channel_rel_l2 == 0.0
    assert spread_of(zeros, torch.ones(3, 4)).channel_rel_l2 == 1e15
    assert spread_of(torch.zeros(0, 4), torch.zeros(0, 4)).row_rel_l2 == 0.0


def test_what_is_not_finite_is_left_to_its_own_count():
    reference, result = torch.ones(2, 3), torch.ones(2, 3)
    result[0, 0] = float("inf")
    assert spread_of(reference, result).channel_rel_l2 == 0.0


def test_samples_of_any_length_merge_to_what_they_are_together():
    reference = torch.randn(30, 8, generator=GENERATOR)
    result = reference + 0.1 * torch.randn(30, 8, generator=GENERATOR)
    parts = SpreadSums()
    for rows in (slice(0, 7), slice(7, 30)):
        one = SpreadSums()
        one.update(reference[rows], result[rows])
        parts.merge(one)
    merged, whole = parts.spread(), spread_of(reference, result)
    assert merged.channel == whole.channel
    assert merged.channel_rel_l2 == pytest.approx(whole.channel_rel_l2, rel=1e-12)


TEXT = """<ir_version: 10, opset_import: ["" : 21]>
f (float[2, 4] x) => (float[2, 3] y)
<int8[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float s = {0.5}> {
    a = Relu (x)
    codes = QuantizeLinear (a, s)
    sums = MatMulInteger (codes, w)
    wide = Cast <to = 1> (sums)
    b = Mul (wide, s)
    y = Relu (b)
}"""


def test_a_layer_is_quantized_if_codes_or_integer_weights_lie_between_it_and_other_anchors():
    model = ir.from_onnx_text(TEXT)
    origin.stamp(model)
    found = anchors.find(model, model, anchors.of_model(model))
    between = [a for a in found if a.source in ("a", "b", "y")]
    assert quantized(model, between) == {"b"}


def test_integers_that_are_no_codes_quantize_nothing():
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 21]>
        f (float[2, 4] x) => (float[4, 2] y) <int64[2] s = {4, 2}> { y = Reshape (x, s) }""")
    origin.stamp(model)
    assert quantized(model, anchors.find(model, model, anchors.of_model(model))) == set()


def test_a_float_product_of_quantized_numbers_is_quantized_also_when_it_is_read_back(tmp_path):
    """Blocks of float8 have no integer operator: what they are is said beside the node, and nothing else is."""
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 21]>
        f (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { h = MatMul (x, w) y = Relu (h) }""")
    origin.stamp(model)
    product = next(node for node in model.graph if node.op_type == "MatMul")
    product.metadata_props.update({QUANTIZED_NUMBERS: "mxfp8", "exporter": "a path"})
    write_model(model, tmp_path / "model.onnx", None)
    read = ir.load(tmp_path / "model.onnx")
    assert [dict(node.metadata_props) for node in read.graph] == [{QUANTIZED_NUMBERS: "mxfp8"}, {}]
    origin.stamp(read)
    assert quantized(read, anchors.find(read, read, anchors.of_model(read))) == {"h"}
