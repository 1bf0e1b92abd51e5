import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.rms_norm import rms_norm
from porting_passes.operators.rms_norm import SINCE
from porting_passes.schemas import NEWEST_OPSET

ROUNDING = {np.float32: 2e-6, np.float16: 2**-10, ml_dtypes.bfloat16: 2**-7}
"""float32: a mean in another order. Half precision: such values on two sides of a tie round apart."""


@pytest.mark.parametrize("opset", sorted({SINCE, 17, 18, 20, 21, 22, 23, NEWEST_OPSET}))
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("attributes", [{}, {"epsilon": 1e-2, "weight_offset": 1.0}], ids=["llama", "gemma"])
def test_body_equals_kernel(run_outputs, attributes, dtype, opset):
    rng = np.random.default_rng(6)
    for shape in ((5, 40), (2, 3, 8), (0, 4)):
        x, weight = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape[-1]).astype(dtype)
        outputs = [(ir.DataType.from_numpy(x.dtype), x.ndim)]
        (got,) = run_outputs("RMSNorm", opset, [x, weight], attributes, outputs)
        expected = to_numpy(rms_norm(to_torch(x), to_torch(weight), **attributes)).astype(np.float32)
        np.testing.assert_allclose(got.astype(np.float32), expected, rtol=ROUNDING[dtype], atol=1e-7)
