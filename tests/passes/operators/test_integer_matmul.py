import numpy as np
import onnx_ir as ir
import pytest


@pytest.mark.parametrize("opset", [11, 12, 18, 22])
@pytest.mark.parametrize("zero_point", [0, -128, 31, 127])
@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (2, 3, 5), (2, 1, 4, 8)])
def test_body_is_the_exact_product(run_body, shape, zero_point, opset):
    rng = np.random.default_rng(3)
    a = rng.integers(-128, 128, shape, dtype=np.int8)
    b = rng.integers(-128, 128, (shape[-1], 6), dtype=np.int8)
    bias = rng.integers(-(2**20), 2**20, 6, dtype=np.int32)
    y = run_body("IntegerMatMul", opset, [a, b, bias], {"a_zero_point": zero_point}, ir.DataType.INT32, a.ndim)
    np.testing.assert_array_equal(y, (a.astype(np.int64) - zero_point) @ b.astype(np.int64) + bias)
