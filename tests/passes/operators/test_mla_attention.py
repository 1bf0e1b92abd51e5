import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from porting_kernels.dtypes import to_numpy, to_torch
from porting_kernels.errors import UnsupportedOperatorError
from porting_kernels.mla_attention import mla_attention
from porting_passes.operators.mla_attention import SINCE
from porting_passes.schemas import NEWEST_OPSET

ROUNDING = {np.float32: 4e-6, np.float16: 2**-9, ml_dtypes.bfloat16: 2**-6}
"""float32: sums in another order. Half precision: such values on two sides of a tie."""


@pytest.mark.parametrize("opset", sorted({SINCE, 18, 20, 23, NEWEST_OPSET}))
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("attributes", [{}, {"is_causal": 1}, {"is_causal": 1, "absorbed": 1}], ids=str)
@pytest.mark.parametrize("keys", [5, 7])
def test_body_equals_kernel(run_outputs, attributes, dtype, opset, keys):
    rng = np.random.default_rng(4)
    shapes = [(2, 3, 5, 4), (2, 3, 5, 2), (2, keys, 6), (2, 1, keys, 2), (6, 3 * (4 + 8)), (2, 1, 5, keys)]
    operands = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    attributes = {"scale": 0.3, **attributes}
    outputs = [(ir.DataType.from_numpy(operands[0].dtype), 3)]
    (got,) = run_outputs("MLAAttention", opset, operands, attributes, outputs)
    expected = to_numpy(mla_attention(*map(to_torch, operands), **attributes)).astype(np.float32)
    assert expected.shape == (2, 5, 24)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got.astype(np.float32), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * scale)


def test_a_node_with_operands_for_a_cache_is_refused(run_outputs):
    shapes = [(2, 3, 5, 4), (2, 3, 5, 2), (2, 5, 6), (2, 1, 5, 2), (6, 36), (1, 1, 1, 1), (2, 7, 6), (2, 1, 7, 2)]
    operands = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(UnsupportedOperatorError) as caught:
        run_outputs("MLAAttention", 20, operands, {"scale": 1.0}, [(ir.DataType.FLOAT, 3)])
    assert "operand 6, the latent of earlier positions and operand 7" in str(caught.value)
