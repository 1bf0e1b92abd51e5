from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from porting_kernels.errors import ShapeError

# Sums of a few hundred products of unit normals in two orders: 1e-5 is some 50 units in the last place.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


CONV = {
    "same_upper_odd_pad": ((1, 3, 7, 8), (4, 3, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same_lower_odd_pad": ((1, 3, 7, 8), (4, 3, 2, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((2, 3, 7, 8), (4, 3, 2, 3), {"auto_pad": "VALID"}),
    "asymmetric": ((1, 2, 6, 5), (3, 2, 3, 3), {"pads": [0, 1, 2, 3], "dilations": [2, 1]}),
    "depthwise": ((1, 6, 9, 9), (12, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "one_axis": ((2, 4, 11), (6, 2, 3), {"group": 2, "pads": [2, 1], "strides": [3]}),
    "three_axes": ((1, 2, 5, 6, 7), (3, 2, 3, 2, 1), {"pads": [1, 0, 0, 1, 1, 0], "strides": [1, 2, 3]}),
}


@pytest.mark.parametrize("case", CONV)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_matches_stock_runtime(case, bias, rng, ours, stock):
    x_shape, w_shape, attributes = CONV[case]
    operands = [normal(rng, *x_shape), normal(rng, *w_shape)] + ([normal(rng, w_shape[0])] if bias else [])
    np.testing.assert_allclose(
        ours("Conv", *operands, **attributes)[0], stock("Conv", *operands, **attributes)[0], **CLOSE
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_conv_geometry_matches_stock_runtime(data, ours, stock):
    rank = data.draw(st.integers(1, 3))
    axes = range(rank)
    kernel = [data.draw(st.integers(1, 3)) for _ in axes]
    dilations = [data.draw(st.integers(1, 2)) for _ in axes]
    strides = [data.draw(st.integers(1, 3)) for _ in axes]
    size = [data.draw(st.integers(1, 8)) for _ in axes]
    group = data.draw(st.integers(1, 2))
    attributes = {"strides": strides, "group": group, "kernel_shape": kernel}
    attributes["auto_pad"] = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if attributes["auto_pad"].startswith("SAME"):
        dilations = [1] * rank  # stock onnxruntime refuses dilated SAME padding
    attributes["dilations"] = dilations
    pads = [0] * 2 * rank
    if attributes["auto_pad"] == "NOTSET":
        attributes["pads"] = pads = [data.draw(st.integers(0, 3)) for _ in range(2 * rank)]
    fits = all(
        n + pads[i] + pads[i + rank] >= d * (k - 1) + 1
        for i, (n, k, d) in enumerate(zip(size, kernel, dilations, strict=True))
    )
    assume(fits or attributes["auto_pad"].startswith("SAME"))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, w, b = normal(rng, 1, 2 * group, *size), normal(rng, 2 * group, 2, *kernel), normal(rng, 2 * group)
    np.testing.assert_allclose(ours("Conv", x, w, b, **attributes)[0], stock("Conv", x, w, b, **attributes)[0], **CLOSE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_conv_is_the_rounded_float32_conv(dtype, rng, ours):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    x, w, b = (normal(rng, *s).astype(half) for s in ((1, 32, 6, 6), (8, 32, 3, 3), (8,)))
    wide = ours("Conv", *(v.astype(np.float32) for v in (x, w, b)))[0]
    np.testing.assert_array_equal(ours("Conv", x, w, b)[0], wide.astype(half))


def test_conv_refuses_wrong_channels_and_too_small_inputs(rng, ours):
    with pytest.raises(ShapeError, match="channels"):
        ours("Conv", normal(rng, 1, 3, 4, 4), normal(rng, 2, 2, 3, 3))
    with pytest.raises(ShapeError, match="larger than the padded input"):
        ours("Conv", normal(rng, 1, 2, 2, 2), normal(rng, 2, 2, 3, 3))
    with pytest.raises(ShapeError, match="pads"):
        ours("Conv", normal(rng, 1, 2, 4, 4), normal(rng, 2, 2, 3, 3), pads=[1, 1])


TRANSPOSE = {
    "plain": ((1, 3, 4, 5), (3, 2, 3, 3), {}),
    "strided_pads": ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    "asymmetric_pads": ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "pads": [0, 1, 2, 0]}),
    "output_shape": ((1, 3, 3, 3), (3, 2, 3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
    "output_shape_upper": (
        (1, 3, 3, 3), (3, 2, 3, 3), {"strides": [3, 2], "output_shape": [8, 6], "auto_pad": "SAME_UPPER"},
    ),
    "same_lower": ((1, 3, 4, 4), (3, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "grouped_dilated": ((1, 4, 5, 4), (4, 3, 2, 3), {"group": 2, "dilations": [2, 2], "pads": [1, 0, 1, 0]}),
    "one_axis": ((2, 3, 6), (3, 2, 4), {"strides": [2], "pads": [1, 2]}),
    "three_axes": ((1, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"strides": [1, 2, 2]}),
}  # fmt: skip


@pytest.mark.parametrize("case", TRANSPOSE)
def test_conv_transpose_matches_stock_runtime(case, rng, ours, stock):
    x_shape, w_shape, attributes = TRANSPOSE[case]
    operands = [normal(rng, *x_shape), normal(rng, *w_shape), normal(rng, w_shape[1] * attributes.get("group", 1))]
    expected = stock("ConvTranspose", *operands, **attributes)[0]
    np.testing.assert_allclose(ours("ConvTranspose", *operands, **attributes)[0], expected, **CLOSE)


@pytest.mark.parametrize("channels", [3, 96])  # 96 * 9 * 255 * 128 exceeds 2**24: the float64 path
def test_conv_integer_is_exact(channels, rng, ours, stock):
    x = rng.integers(0, 256, (1, channels, 6, 6), dtype=np.uint8)
    w = rng.integers(0, 256, (4, channels, 3, 3), dtype=np.uint8)
    zero_points = np.uint8(7), np.uint8(131)
    attributes = {"pads": [1, 1, 0, 2], "strides": [2, 1]}
    operands = [x, w, *map(np.asarray, zero_points)]
    got = ours("ConvInteger", *operands, opset=10, **attributes)[0]
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, stock("ConvInteger", *operands, opset=10, **attributes)[0])


def test_conv_integer_takes_a_zero_point_an_output_channel(rng, ours):
    x = rng.integers(-128, 128, (1, 2, 4, 4), dtype=np.int8)
    w = rng.integers(-128, 128, (3, 2, 1, 1), dtype=np.int8)
    zero = np.array([1, -2, 3], np.int8)
    got = ours("ConvInteger", x, w, None, zero, opset=10)[0]
    centred = w[:, :, 0, 0].astype(np.int64) - zero[:, None]
    np.testing.assert_array_equal(got, np.einsum("oc,nchw->nohw", centred, x.astype(np.int64)))


def test_col2im_adds_overlapping_blocks(ours, stock, rng):
    columns = normal(rng, 2, 3 * 6, 12)
    sizes = [np.array(v, np.int64) for v in ([5, 5], [2, 3])]
    attributes = {"pads": [0, 0, 0, 0]}
    expected = stock("Col2Im", columns, *sizes, opset=18, **attributes)[0]
    np.testing.assert_allclose(ours("Col2Im", columns, *sizes, opset=18, **attributes)[0], expected, **CLOSE)
