import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.grouped_matmul import grouped_matmul
from porting_passes.operators.grouped_matmul import SINCE
from porting_passes.schemas import NEWEST_OPSET

OPSETS = sorted({SINCE, 17, 18, 20, 21, 23, NEWEST_OPSET})
ROUNDING = {np.float32: 1e-5, np.float16: 2**-10, ml_dtypes.bfloat16: 2**-7}
"""float32: 5 products added in another order. Half precision: such sums on two sides of a tie round apart."""


def check(run_outputs, opset, counts, dtype=np.float32, *, transposed=0, biased=True, k=5, n=3):
    rng = np.random.default_rng(sum(counts))
    experts = len(counts)
    w = rng.standard_normal((experts, n, k) if transposed else (experts, k, n)).astype(dtype)
    x = rng.standard_normal((sum(counts), k)).astype(dtype)
    bias = (rng.standard_normal((experts, n)) if biased else np.zeros((experts, 1))).astype(dtype)
    operands = [x, w, np.cumsum(counts, dtype=np.int64), bias]
    outputs = [(ir.DataType.from_numpy(x.dtype), 2)]
    (got,) = run_outputs("GroupedMatmul", opset, operands, {"transposed": transposed}, outputs)
    expected = to_numpy(grouped_matmul(*map(to_torch, operands), transposed=transposed)).astype(np.float32)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.astype(np.float32), expected, rtol=ROUNDING[dtype], atol=2e-6)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("transposed", [0, 1])
def test_body_equals_kernel(run_outputs, transposed, dtype, opset):
    for counts in ([2, 3, 1], [0, 4, 0], [0, 0, 0]):
        check(run_outputs, opset, counts, dtype, transposed=transposed)


def test_body_without_bias(run_outputs):
    check(run_outputs, 20, [2, 0, 3], biased=False)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 1), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40)
def test_body_equals_kernel_on_any_counts(run_outputs, counts, transposed, k, n):
    check(run_outputs, 20, counts, transposed=transposed, k=k, n=n)
