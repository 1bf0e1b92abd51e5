import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.swiglu import swiglu
from porting_passes.operators.swiglu import SINCE
from porting_passes.schemas import NEWEST_OPSET

ROUNDING = {np.float32: 2e-6, np.float16: 2**-10, ml_dtypes.bfloat16: 2**-7}
"""float32: two libraries' exp. Half precision: such values on two sides of a tie round apart."""
ATTRIBUTES = {
    "halves": {},
    "pairs": {"interleaved": 1},
    "gpt-oss": {"interleaved": 1, "alpha": 1.702, "limit": 7.0, "offset": 1.0},
}


@pytest.mark.parametrize("opset", sorted({SINCE, 17, 18, 20, 21, 23, NEWEST_OPSET}))
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("case", ATTRIBUTES)
def test_body_equals_kernel(run_outputs, case, dtype, opset):
    for shape in ((4, 10), (2, 3, 2), (0, 6)):
        x = (np.random.default_rng(4).standard_normal(shape) * 5).astype(dtype)
        outputs = [(ir.DataType.from_numpy(x.dtype), x.ndim)]
        (got,) = run_outputs("SwiGLU", opset, [x], ATTRIBUTES[case], outputs)
        expected = to_numpy(swiglu(to_torch(x), **ATTRIBUTES[case])).astype(np.float32)
        np.testing.assert_allclose(got.astype(np.float32), expected, rtol=ROUNDING[dtype], atol=1e-7)
