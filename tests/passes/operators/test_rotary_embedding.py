import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.rotary_embedding import LAYOUTS, rotary_embedding
from porting_passes.operators.rotary_embedding import SINCE
from porting_passes.schemas import NEWEST_OPSET

ROUNDING = {np.float32: 2e-6, np.float16: 2**-10, ml_dtypes.bfloat16: 2**-7}
"""float32: a fused multiply-add in one of two libraries. Half precision: such values on two sides of a tie."""


@pytest.mark.parametrize("opset", sorted({SINCE, 18, 20, 23, NEWEST_OPSET}))
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
def test_body_equals_kernel(run_outputs, layout, dtype, opset, batch):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 5, 8)).astype(dtype)
    tables = [rng.standard_normal((batch, 5, 4)).astype(dtype) for _ in range(2)]
    outputs = [(ir.DataType.from_numpy(x.dtype), x.ndim)]
    (got,) = run_outputs("RotaryEmbedding", opset, [x, *tables], {"layout": layout}, outputs)
    expected = to_numpy(rotary_embedding(to_torch(x), *map(to_torch, tables), layout=layout)).astype(np.float32)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got.astype(np.float32), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * scale)
