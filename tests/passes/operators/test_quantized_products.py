"""The bodies of the quantized products and of their quantizer, in stock onnxruntime against the kernels."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.dynamic_quantize import dynamic_quantize
from porting_kernels.quantized_grouped_matmul import quantized_grouped_matmul
from porting_kernels.quantized_matmul import quantized_matmul
from porting_kernels.registry import Context
from porting_kernels.weight_only_matmul import weight_only_grouped_matmul, weight_only_matmul
from porting_passes.operators import SINCE
from porting_passes.schemas import NEWEST_OPSET

CONTEXT = Context(1, 2)
OPSETS = sorted({SINCE["porting", "DynamicQuantize"], 17, 18, 20, 21, 23, NEWEST_OPSET})
FLOAT = ir.DataType.FLOAT


def codes(rng, *shape, low=-128, high=128):
    return rng.integers(low, high, shape).astype(np.int8)


def scales(rng, *shape):
    return (rng.random(shape) + 0.01).astype(np.float32)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bits", [8, 4])
def test_dynamic_quantize(run_outputs, bits, dtype, opset):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 7)).astype(dtype)
    x[0, 0] = 0
    x[1, 2, 3], x[2, 0, 1], x[2, 3, 0] = np.nan, np.inf, -np.inf
    smooth = scales(rng, 7)
    outputs = [(ir.DataType.INT8, 3), (FLOAT, 2)]
    got = run_outputs("DynamicQuantize", opset, [x, smooth], {"bits": bits}, outputs)
    expected = dynamic_quantize(to_torch(x), to_torch(smooth), bits=bits, context=CONTEXT)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, to_numpy(theirs))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("to", [1, 10])
def test_quantized_matmul(run_outputs, to, opset):
    rng = np.random.default_rng(0)
    operands = [codes(rng, 2, 3, 9), scales(rng, 2, 3), codes(rng, 5, 9), scales(rng, 5), scales(rng, 5)]
    (got,) = run_outputs("QuantizedMatMul", opset, operands, {"to": to}, [(ir.DataType(to), 3)])
    np.testing.assert_array_equal(got, to_numpy(quantized_matmul(*map(to_torch, operands), to=to, context=CONTEXT)))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("groups", [(), (1,), (3,)])
def test_quantized_grouped_matmul(run_outputs, groups, opset):
    """Tolerance: groups may be added in another order."""
    rng = np.random.default_rng(0)
    for counts in ([2, 3, 1], [0, 4, 0], [0, 0, 0]):
        m = sum(counts)
        operands = [codes(rng, m, 12), scales(rng, m), codes(rng, 3, 5, 12, low=-8, high=8), scales(rng, 3, 5, *groups)]
        operands += [np.cumsum(counts, dtype=np.int64), scales(rng, 3, 5)]
        (got,) = run_outputs("QuantizedGroupedMatmul", opset, operands, {"bits": 4}, [(FLOAT, 2)])
        expected = quantized_grouped_matmul(*map(to_torch, operands), bits=4, context=CONTEXT)
        np.testing.assert_allclose(got, to_numpy(expected), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("groups", [(), (3,)])
def test_weight_only_products(run_outputs, groups, dtype, opset):
    """Tolerance: float32 sums of 12 products in another order, which a float16 result may round apart."""
    rng = np.random.default_rng(0)
    tolerance = {"rtol": 1e-5 if dtype == np.float32 else 2**-10, "atol": 1e-5}
    out = ir.DataType.from_numpy(np.dtype(dtype))
    x = rng.standard_normal((2, 3, 12)).astype(dtype)
    operands = [x, codes(rng, 5, 12), scales(rng, 5, *groups), scales(rng, 1)]
    (got,) = run_outputs("WeightOnlyMatMul", opset, operands, {}, [(out, 3)])
    np.testing.assert_allclose(got, to_numpy(weight_only_matmul(*map(to_torch, operands))), **tolerance)
    for counts in ([2, 3, 1], [0, 0, 0]):
        x = rng.standard_normal((sum(counts), 12)).astype(dtype)
        operands = [x, codes(rng, 3, 5, 12), scales(rng, 3, 5, *groups)]
        operands += [np.cumsum(counts, dtype=np.int64), scales(rng, 3, 1)]
        (got,) = run_outputs("WeightOnlyGroupedMatmul", opset, operands, {}, [(out, 2)])
        np.testing.assert_allclose(got, to_numpy(weight_only_grouped_matmul(*map(to_torch, operands))), **tolerance)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_grouped_body_on_any_counts_and_groups(run_outputs, counts, groups, width, n):
    rng = np.random.default_rng(sum(counts))
    m, e, k = sum(counts), len(counts), groups * width
    operands = [codes(rng, m, k), scales(rng, m), codes(rng, e, n, k), scales(rng, e, n, groups)]
    operands += [np.cumsum(counts, dtype=np.int64), scales(rng, e, n)]
    (got,) = run_outputs("QuantizedGroupedMatmul", 20, operands, {}, [(FLOAT, 2)])
    expected = quantized_grouped_matmul(*map(to_torch, operands), context=CONTEXT)
    np.testing.assert_allclose(got, to_numpy(expected), rtol=1e-5, atol=1e-3)
