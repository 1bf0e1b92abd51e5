import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from porting_kernels.add_rms_norm import add_rms_norm
from porting_kernels.dtypes import to_numpy, to_torch
from porting_passes.operators.add_rms_norm import SINCE
from porting_passes.schemas import NEWEST_OPSET

ROUNDING = {np.float32: 2e-6, np.float16: 2**-10, ml_dtypes.bfloat16: 2**-7}
"""Of the norm: see its own test. The sum is the same to the bit."""


@pytest.mark.parametrize("opset", sorted({SINCE, 17, 18, 20, 21, 22, 23, NEWEST_OPSET}))
@pytest.mark.parametrize("dtype", ROUNDING)
def test_body_equals_kernel(run_outputs, dtype, opset):
    rng = np.random.default_rng(8)
    operands = [rng.standard_normal(shape).astype(dtype) for shape in ((2, 5, 24), (2, 5, 24), (24,))]
    outputs = [(ir.DataType.from_numpy(operands[0].dtype), 3)] * 2
    attributes = {"epsilon": 1e-3, "weight_offset": 1.0}
    got, total = run_outputs("AddRMSNorm", opset, operands, attributes, outputs)
    expected, expected_total = (
        to_numpy(r).astype(np.float32) for r in add_rms_norm(*map(to_torch, operands), **attributes)
    )
    np.testing.assert_array_equal(total.astype(np.float32), expected_total)
    np.testing.assert_allclose(got.astype(np.float32), expected, rtol=ROUNDING[dtype], atol=1e-7)
