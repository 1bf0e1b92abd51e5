import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting_kernels.integer_conv import integer_conv

CASES = {
    "plain": ((1, 3, 6, 5), (4, 3, 3, 3), {}),
    "asymmetric_pads": ((2, 3, 6, 5), (4, 3, 3, 2), {"pads": [2, 0, 1, 3]}),
    "groups_dilation_stride": ((1, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "dilations": [2, 3], "strides": [1, 2]}),
    "depthwise": ((1, 5, 7, 7), (5, 1, 3, 3), {"group": 5, "pads": [1, 1, 1, 1]}),
    "same_upper": ((1, 2, 7, 5), (3, 2, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same_lower": ((1, 2, 7, 5), (3, 2, 3, 4), {"auto_pad": "SAME_LOWER"}),
    "one_axis": ((2, 3, 11), (2, 3, 4), {"pads": [3, 0]}),
    "three_axes": ((1, 2, 4, 5, 6), (3, 2, 2, 3, 1), {"pads": [1, 0, 0, 0, 2, 0]}),
}


@pytest.mark.parametrize("opset", [11, 12, 18, 22])
@pytest.mark.parametrize("zero_point", [0, -128, 31, 127])
@pytest.mark.parametrize("case", CASES)
def test_body_equals_kernel(run_body, case, zero_point, opset):
    x_shape, w_shape, attributes = CASES[case]
    attributes = {**attributes, "x_zero_point": zero_point}
    rng = np.random.default_rng(7)
    x = rng.integers(-128, 128, x_shape, dtype=np.int8)
    w = rng.integers(-128, 128, w_shape, dtype=np.int8)
    bias = rng.integers(-(2**20), 2**20, w_shape[0], dtype=np.int32)
    y = run_body("IntegerConv", opset, [x, w, bias], attributes, ir.DataType.INT32, x.ndim)
    np.testing.assert_array_equal(y, integer_conv(*map(torch.from_numpy, (x, w, bias)), **attributes).numpy())


def test_one_bias_for_all_channels(run_body):
    x, w, bias = np.ones((1, 2, 3, 3), np.int8), np.ones((2, 2, 1, 1), np.int8), np.array([5], np.int32)
    y = run_body("IntegerConv", 13, [x, w, bias], {}, ir.DataType.INT32, 4)
    np.testing.assert_array_equal(y, np.full((1, 2, 3, 3), 7))
