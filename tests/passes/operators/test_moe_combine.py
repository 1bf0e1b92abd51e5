import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.moe_combine import moe_combine
from porting_passes.operators.moe_combine import SINCE
from porting_passes.schemas import NEWEST_OPSET


@pytest.mark.parametrize("opset", sorted({SINCE, 17, 18, 20, 21, 23, NEWEST_OPSET}))
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(0, 2), (1, 1), (1, 8), (13, 3)])
def test_body_adds_as_the_kernel_does_to_the_bit(run_outputs, shape, dtype, opset):
    rng = np.random.default_rng(shape)
    rows = rng.standard_normal((shape[0] * shape[1], 5)).astype(dtype)
    operands = [rows, rng.permutation(len(rows)), rng.random(shape, np.float32)]
    (got,) = run_outputs("MoeCombine", opset, operands, {}, [(ir.DataType.from_numpy(rows.dtype), 2)])
    np.testing.assert_array_equal(got, to_numpy(moe_combine(*map(to_torch, operands))).astype(got.dtype))
