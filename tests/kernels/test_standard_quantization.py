from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from porting_kernels.errors import DtypeError, ShapeError

EDGES = np.array([0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-40, 127.5, 1e9, -1e9, np.inf, -np.inf, 3.3, -7.7], np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize("scale", [1.0, 0.1, 3.7e-3])
def test_codes_match_stock_runtime(dtype, scale, rng, ours, stock):
    x = np.concatenate([EDGES, (rng.standard_normal(500) * 200).astype(np.float32)])
    operands = x, np.array(scale, np.float32), np.array(3, dtype)
    got, want = (run("QuantizeLinear", *operands, opset=21)[0] for run in (ours, stock))
    finite = np.abs(x / np.float32(scale)) < 2**31  # stock onnxruntime rounds to int32 before it saturates
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[finite], want[finite])
    info = np.iinfo(dtype)
    np.testing.assert_array_equal(got[x == np.inf], info.max)
    np.testing.assert_array_equal(got[x == -np.inf], info.min)


@pytest.mark.parametrize("axis", [1, -1, 0])
def test_scales_an_axis_both_ways_match_stock_runtime(axis, rng, ours, stock):
    x = rng.standard_normal((3, 4, 5)).astype(np.float32)
    scale = rng.random(x.shape[axis], np.float32) * 0.05 + 0.01
    zero = rng.integers(-20, 20, x.shape[axis], dtype=np.int8)
    codes, want = (run("QuantizeLinear", x, scale, zero, axis=axis, opset=13)[0] for run in (ours, stock))
    np.testing.assert_array_equal(codes, want)
    back, want = (run("DequantizeLinear", codes, scale, zero, axis=axis, opset=13)[0] for run in (ours, stock))
    np.testing.assert_array_equal(back, want)


@pytest.mark.parametrize("axis, block", [(0, 2), (1, 4), (-1, 3)])
def test_blocks_match_onnx_reference(axis, block, rng, ours, reference):
    x = rng.standard_normal((4, 8, 6)).astype(np.float32)
    shape = list(x.shape)
    shape[axis] = -(-shape[axis] // block)
    scale, zero = rng.random(shape, np.float32) * 0.05 + 0.01, rng.integers(-9, 9, shape, dtype=np.int16)
    attributes = {"axis": axis, "block_size": block, "opset": 21}
    codes, want = (run("QuantizeLinear", x, scale, zero, **attributes)[0] for run in (ours, reference))
    np.testing.assert_array_equal(codes, want)
    back, want = (run("DequantizeLinear", codes, scale, zero, **attributes)[0] for run in (ours, reference))
    np.testing.assert_array_equal(back, want)


@pytest.mark.parametrize("code, low, high", [(TensorProto.INT4, -8, 7), (TensorProto.UINT4, 0, 15)])
def test_four_bit_codes_saturate_at_their_own_limits(code, low, high, ours):
    x = np.array([-100, -1, 0.5, 1.5, 100], np.float32)
    got = ours("QuantizeLinear", x, np.array(1, np.float32), output_dtype=code, opset=21)[0]
    np.testing.assert_array_equal(got, np.clip([-100, -1, 0, 2, 100], low, high))
    zero = np.array(1, ml_dtypes.int4 if code == TensorProto.INT4 else ml_dtypes.uint4)
    by_zero_point = ours("QuantizeLinear", x, np.array(1, np.float32), zero, opset=21)[0]
    np.testing.assert_array_equal(by_zero_point, np.clip([-99, 0, 1, 3, 101], low, high))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_eight_bit_floats_saturate_or_not(name, ours):
    dtype = np.dtype(getattr(ml_dtypes, name))
    largest = float(ml_dtypes.finfo(dtype).max)
    x, scale = np.array([0.3, -1.1, 1e6], np.float32), np.array(2, np.float32)
    got = ours("QuantizeLinear", x, scale, np.zeros((), dtype), opset=19)[0].astype(np.float32)
    np.testing.assert_array_equal(got[:2], (x[:2] / 2).astype(dtype).astype(np.float32))
    assert got[2] == largest
    assert not np.isfinite(ours("QuantizeLinear", x, scale, np.zeros((), dtype), saturate=0, opset=19)[0][2])
    back = ours("DequantizeLinear", got.astype(dtype), scale, opset=19)[0]
    np.testing.assert_array_equal(back, got * 2)


def test_int32_accumulators_dequantize(rng, ours, stock):
    x, scale = rng.integers(-(2**30), 2**30, 50, dtype=np.int32), np.array(1e-5, np.float32)
    got, want = (run("DequantizeLinear", x, scale, opset=13)[0] for run in (ours, stock))
    np.testing.assert_array_equal(got, want)


def test_half_divides_in_float32_and_dequantizes_with_one_rounding(rng, ours):
    x, scale = (rng.standard_normal(300) * 10).astype(np.float16), np.array(0.0731, np.float16)
    codes = ours("QuantizeLinear", x, scale, np.array(0, np.int8), opset=19)[0]
    want = np.clip(np.rint(x.astype(np.float32) / np.float32(scale)), -128, 127)
    np.testing.assert_array_equal(codes, want)
    back = ours("DequantizeLinear", codes, scale, opset=19)[0]
    np.testing.assert_array_equal(back, (codes.astype(np.float32) * np.float32(scale)).astype(np.float16))


def test_dynamic_quantization_matches_stock_runtime(rng, ours, stock):
    for x in (rng.standard_normal((5, 7)), rng.random((3, 3)) + 1, -rng.random((3, 3)) - 2, np.zeros((2, 2))):
        x = x.astype(np.float32)
        got, want = (run("DynamicQuantizeLinear", x, outputs=3, opset=11) for run in (ours, stock))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_array_equal(g, w)


def test_wrong_granularity_is_refused(rng, ours):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    with pytest.raises(ShapeError, match="axis"):
        ours("QuantizeLinear", x, np.ones(3, np.float32), axis=1, opset=13)
    with pytest.raises(ShapeError, match="blocks"):
        ours("QuantizeLinear", x, np.ones((3, 3), np.float32), axis=1, block_size=2, opset=21)
    with pytest.raises(DtypeError):
        ours("DequantizeLinear", x, np.array(1, np.float32), opset=13)
