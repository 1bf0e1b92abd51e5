import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.moe_dispatch import moe_dispatch
from porting_passes.operators.moe_dispatch import SINCE
from porting_passes.schemas import NEWEST_OPSET


def check(run_outputs, opset, x, ids, experts):
    outputs = [(ir.DataType.from_numpy(x.dtype), 2), (ir.DataType.INT64, 1), (ir.DataType.INT64, 1)]
    got = run_outputs("MoeDispatch", opset, [x, ids], {"experts": experts}, outputs)
    expected = moe_dispatch(to_torch(x), to_torch(ids), experts=experts)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, to_numpy(b).astype(a.dtype))


@pytest.mark.parametrize("opset", sorted({SINCE, 17, 18, 20, 21, 23, NEWEST_OPSET}))
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (13, 3)])
def test_body_equals_kernel(run_outputs, shape, dtype, opset):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((shape[0], 4)).astype(dtype)
    check(run_outputs, opset, x, rng.integers(0, 6, shape), 7)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.data())
@settings(max_examples=40)
def test_body_sorts_as_the_kernel_does(run_outputs, tokens, k, experts, data):
    ids = data.draw(st.lists(st.integers(0, experts - 1), min_size=tokens * k, max_size=tokens * k))
    x = np.arange(tokens * 2, dtype=np.float32).reshape(tokens, 2)
    check(run_outputs, 20, x, np.array(ids, np.int64).reshape(tokens, k), experts)
