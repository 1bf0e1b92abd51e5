import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting_kernels.quantize import quantize
from porting_kernels.registry import Context

EDGES = np.array(
    [0.0, -0.0, 0.5, 1.5, -0.5, -2.5, 0.49999997, 127.4, 127.5, -128.5, 3e38, -3e38, np.inf, -np.inf, np.nan, 1e-45],
    np.float32,
)


@pytest.mark.parametrize("opset", [11, 12, 13, 18, 21, 25])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0), (0.37, -128), (1e30, 127), (41.7, 3)])
def test_body_equals_kernel_on_edges_and_noise(run_body, opset, scale, offset):
    noise = np.random.default_rng(opset).standard_normal((3, 40)).astype(np.float32) * 60 / np.float32(scale)
    for x in (EDGES, noise):
        y = run_body("Quantize", opset, [x], {"scale": scale, "offset": offset}, ir.DataType.INT8, x.ndim)
        expected = quantize(torch.from_numpy(x), scale=scale, offset=offset, context=Context(1))
        np.testing.assert_array_equal(y, expected.numpy())


@pytest.mark.parametrize("opset", [11, 16, 22])
def test_body_takes_float16(run_body, opset):
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float16)
    y = run_body("Quantize", opset, [x], {"scale": 63.5, "offset": 0}, ir.DataType.INT8, 3)
    np.testing.assert_array_equal(y, np.clip(np.rint(x.astype(np.float32) * np.float32(63.5)), -128, 127))
