import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting_kernels.dequantize import dequantize
from porting_kernels.registry import Context


@pytest.mark.parametrize("opset", [11, 13, 18, 22])
@pytest.mark.parametrize("dtype", [1, 10])
@pytest.mark.parametrize(("axis", "channels"), [(0, 2), (1, 3), (-1, 5), (3, 5), (1, None), (2, 1)])
def test_body_equals_kernel(run_body, axis, channels, dtype, opset):
    rng = np.random.default_rng(1)
    acc = rng.integers(-(2**31), 2**31 - 1, (2, 3, 4, 5), dtype=np.int32)
    scale = np.asarray(rng.random(() if channels is None else channels) * 1e-6, np.float32)
    attributes = {"axis": axis, "dtype": dtype}
    y = run_body("Dequantize", opset, [acc, scale], attributes, ir.DataType(dtype), 4)
    expected = dequantize(torch.from_numpy(acc), torch.as_tensor(scale), context=Context(1), **attributes)
    assert y.dtype == ir.DataType(dtype).numpy()
    np.testing.assert_array_equal(y, expected.numpy())
