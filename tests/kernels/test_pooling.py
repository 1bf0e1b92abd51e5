from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from porting_kernels.errors import ShapeError

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # means of at most 27 elements, summed in two orders


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def draw_windows(data, *, dilated: bool):
    rank = data.draw(st.integers(1, 3))
    axes = range(rank)
    size = [data.draw(st.integers(2, 8)) for _ in axes]
    attributes = {
        "kernel_shape": [data.draw(st.integers(1, 3)) for _ in axes],
        "strides": [data.draw(st.integers(1, 3)) for _ in axes],
        "auto_pad": data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])),
    }
    dilations = [1] * rank
    if dilated and attributes["auto_pad"] in ("NOTSET", "VALID"):
        attributes["dilations"] = dilations = [data.draw(st.integers(1, 2)) for _ in axes]
    pads = [0] * 2 * rank
    if attributes["auto_pad"] == "NOTSET":  # pads below the kernel size: stock onnxruntime refuses others
        pads = attributes["pads"] = [data.draw(st.integers(0, k - 1)) for k in attributes["kernel_shape"] * 2]
        attributes["ceil_mode"] = data.draw(st.integers(0, 1))
    elif attributes["auto_pad"].startswith("SAME"):  # stock onnxruntime computes negative pads for strides > kernel
        attributes["strides"] = [
            min(s, k) for s, k in zip(attributes["strides"], attributes["kernel_shape"], strict=True)
        ]
    if not attributes["auto_pad"].startswith("SAME"):
        assume(
            all(
                n + pads[i] + pads[i + rank] >= d * (k - 1) + 1
                for i, (n, k, d) in enumerate(zip(size, attributes["kernel_shape"], dilations, strict=True))
            )
        )
    return size, attributes


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_max_pool_geometry_matches_stock_runtime(data, ours, stock):
    size, attributes = draw_windows(data, dilated=True)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = normal(rng, 2, 2, *size)
    np.testing.assert_array_equal(ours("MaxPool", x, **attributes)[0], stock("MaxPool", x, **attributes)[0])


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_average_pool_geometry_matches_stock_runtime(data, ours, stock):
    size, attributes = draw_windows(data, dilated=True)
    attributes["count_include_pad"] = data.draw(st.integers(0, 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = normal(rng, 2, 2, *size)
    expected = stock("AveragePool", x, **attributes)[0]
    np.testing.assert_allclose(ours("AveragePool", x, **attributes)[0], expected, **CLOSE)


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 1, 0]], ids=["symmetric", "asymmetric"])
def test_max_pool_indices_count_over_the_unpadded_input(storage_order, pads, rng, ours, stock):
    x = normal(rng, 2, 3, 5, 7)
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": pads, "storage_order": storage_order}
    got, want = (run("MaxPool", x, outputs=2, **attributes) for run in (ours, stock))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool_of_integers(dtype, rank, rng, ours, stock):
    x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (1, 2, *[6] * rank), dtype=dtype)
    attributes = {"kernel_shape": [2] * rank, "pads": [1] * rank + [0] * rank}
    np.testing.assert_array_equal(ours("MaxPool", x, **attributes)[0], stock("MaxPool", x, **attributes)[0])


def test_max_pool_keeps_infinities_and_nan(ours):
    x = np.array([[[-math.inf, -math.inf, 1, math.nan, 2, math.inf]]], np.float32)
    got = ours("MaxPool", x, kernel_shape=[2], strides=[2])[0]
    np.testing.assert_array_equal(got, np.array([[[-math.inf, math.nan, math.inf]]], np.float32))


def test_ceil_overhang_never_counts(ours):
    x = np.array([[[1, 2, 3, 4, 5]]], np.float32)
    for include in (0, 1):
        got = ours("AveragePool", x, kernel_shape=[2], strides=[2], ceil_mode=1, count_include_pad=include)[0]
        np.testing.assert_array_equal(got, [[[1.5, 3.5, 5.0]]])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool_matches_stock_runtime(p, rng, ours, stock):
    x = normal(rng, 1, 3, 7, 8)
    attributes = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1], "p": p}
    np.testing.assert_allclose(
        ours("LpPool", x, **attributes)[0], stock("LpPool", x, **attributes)[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
def test_global_pools_match_stock_runtime(op_type, rng, ours, stock):
    x = normal(rng, 2, 3, 5, 4)
    np.testing.assert_allclose(ours(op_type, x)[0], stock(op_type, x, opset=13)[0], **CLOSE)


def test_global_average_of_float16_accumulates_wider_than_float16(ours):
    x = np.full((1, 1, 80, 80), 100, np.float16)  # the sum, 640,000, is beyond float16
    assert ours("GlobalAveragePool", x)[0].item() == 100


def test_max_unpool_inverts_max_pool(rng, ours, stock):
    x = normal(rng, 1, 2, 6, 6)
    values, indices = ours("MaxPool", x, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    got = ours("MaxUnpool", values, indices, **attributes)[0]
    np.testing.assert_array_equal(got, stock("MaxUnpool", values, indices, **attributes)[0])
    assert set(got[got != 0].tolist()) == set(values.flatten().tolist())


def test_kernel_shape_must_fit_the_spatial_axes(ours, rng):
    with pytest.raises(ShapeError):
        ours("MaxPool", normal(rng, 1, 1, 4, 4), kernel_shape=[2])
    with pytest.raises(ShapeError):
        ours("AveragePool", normal(rng, 1, 1, 4, 4))
