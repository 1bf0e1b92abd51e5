from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from porting_kernels.errors import PortingError, ShapeError

# Interpolated unit normals; the weights come from float32 coordinates of size up to 30.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_images_match_stock_runtime(data, ours, stock):
    mode = data.draw(st.sampled_from(["nearest", "linear", "cubic"]))
    attributes = {"mode": mode, "coordinate_transformation_mode": data.draw(st.sampled_from(COORDINATES))}
    if mode == "nearest":
        attributes["nearest_mode"] = data.draw(
            st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        )
    if mode == "cubic":
        attributes["cubic_coeff_a"] = data.draw(st.sampled_from([-0.75, -0.5]))
        attributes["exclude_outside"] = data.draw(st.integers(0, 1))
    height, width = (data.draw(st.integers(2, 9)) for _ in range(2))
    scales = sizes = None
    if data.draw(st.booleans()):
        sizes = np.array([1, 2, *(data.draw(st.integers(2, 20)) for _ in range(2))], np.int64)
    else:
        scales = np.array([1, 1, *(data.draw(st.sampled_from([0.5, 0.6, 1.0, 1.5, 2.0, 2.6, 3.0])) for _ in range(2))])
        scales = scales.astype(np.float32)
        assume(height * scales[2] >= 1 and width * scales[3] >= 1)
    x = normal(np.random.default_rng(data.draw(st.integers(0, 99))), 1, 2, height, width)
    got, want = (run("Resize", x, None, scales, sizes, opset=19, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude_outside", [0, 1])
@pytest.mark.parametrize("sizes", [(4, 5), (3, 20), (8, 9)])
def test_antialias_matches_onnx_reference(mode, exclude_outside, sizes, rng, ours, reference):
    x = normal(rng, 1, 2, 9, 13)
    attributes = {"mode": mode, "antialias": 1, "exclude_outside": exclude_outside, "axes": [2, 3], "opset": 19}
    operands = x, None, None, np.array(sizes, np.int64)
    np.testing.assert_allclose(
        ours("Resize", *operands, **attributes)[0], reference("Resize", *operands, **attributes)[0], **CLOSE
    )


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_aspect_ratio_policies_match_stock_runtime(policy, mode, rng, ours, stock):
    operands = normal(rng, 1, 1, 4, 6), None, None, np.array([7, 9], np.int64)
    attributes = {"mode": mode, "axes": [2, 3], "keep_aspect_ratio_policy": policy, "opset": 19}
    got, want = (run("Resize", *operands, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop_and_resize_matches_onnx_reference(mode, rng, ours, reference):
    x, roi = normal(rng, 1, 1, 5, 6), np.array([0, 0, 0.4, -0.2, 1, 1, 0.9, 1.3], np.float32)
    operands = x, roi, None, np.array([1, 1, 3, 7], np.int64)
    attributes = {
        "mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 10.0, "opset": 13,
    }  # fmt: skip
    got, want = (run("Resize", *operands, **attributes)[0] for run in (ours, reference))
    np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("shape", [(2, 5), (1, 2, 5), (1, 2, 3, 4, 5)])
def test_linear_over_one_to_three_axes(shape, rng, ours, reference):
    operands = normal(rng, *shape), None, np.array([1] * (len(shape) - 1) + [2.5], np.float32)
    if len(shape) == 5:
        operands[2][2:] = [1.5, 0.5, 2.0]
    got, want = (run("Resize", *operands, mode="linear", opset=13)[0] for run in (ours, reference))
    np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("op_type, opset", [("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 3), (1.5, 2.5), (0.6, 0.5)])
def test_before_opset_11_matches_stock_runtime(op_type, opset, mode, scales, rng, ours, stock):
    if op_type == "Upsample" and scales[0] < 1:
        scales = (1, 1.2)
    operands = normal(rng, 1, 2, 5, 6), np.array([1, 1, *scales], np.float32)
    got, want = (run(op_type, *operands, mode=mode, opset=opset)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)
    if op_type == "Upsample":
        attribute = ours("Upsample", operands[0], mode=mode, scales=[1.0, 1.0, *map(float, scales)], opset=7)[0]
        np.testing.assert_array_equal(attribute, got)


def test_half_and_integer_images(rng, ours):
    sizes = np.array([1, 1, 7, 9], np.int64)
    half = normal(rng, 1, 1, 4, 5).astype(np.float16)
    wide = ours("Resize", half.astype(np.float32), None, None, sizes, mode="cubic", opset=13)[0]
    got = ours("Resize", half, None, None, sizes, mode="cubic", opset=13)[0]
    np.testing.assert_array_equal(got, wide.astype(np.float16))
    codes = rng.integers(0, 256, (1, 1, 4, 5), dtype=np.uint8)
    wide = ours("Resize", codes.astype(np.float32), None, None, sizes, mode="linear", opset=13)[0]
    np.testing.assert_array_equal(
        ours("Resize", codes, None, None, sizes, mode="linear", opset=13)[0], wide.astype(np.uint8)
    )


def test_infinities_stay_in_their_neighbourhood(ours):
    x = np.array([[[[1, 2, np.inf, 4, 5]]]], np.float32)
    got = ours("Resize", x, None, np.array([1, 1, 1, 0.5], np.float32), mode="cubic", opset=13)[0]
    assert np.isfinite(ours("Resize", x[..., :2], None, np.array([1, 1, 1, 2], np.float32), mode="cubic")[0]).all()
    assert not np.isfinite(got).all()


def test_contradictions_are_refused(rng, ours):
    x, scales = normal(rng, 1, 1, 4, 4), np.array([1, 1, 2, 2], np.float32)
    with pytest.raises(ShapeError):
        ours("Resize", x, None, scales, np.array([1, 1, 8, 8], np.int64))
    with pytest.raises(ShapeError):
        ours("Resize", x, None, scales[:2])
    for attributes in ({"mode": "area"}, {"coordinate_transformation_mode": "middle"}, {"nearest_mode": "up"}):
        with pytest.raises(PortingError):
            ours("Resize", x, None, scales, **attributes)
