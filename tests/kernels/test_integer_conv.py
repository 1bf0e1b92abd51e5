import numpy as np
import pytest
import torch
import torch.nn.functional as F

from porting_kernels.integer_conv import integer_conv


@pytest.mark.parametrize("zero_point", [0, -128, 17])
@pytest.mark.parametrize(
    ("group", "stride", "dilation", "pads"), [(1, 1, 1, (0, 0, 0, 0)), (2, 2, 1, (1, 0, 2, 3)), (4, 1, 2, (2, 2, 2, 2))]
)
def test_equals_integer_torch(zero_point, group, stride, dilation, pads):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(-128, 128, (2, 4, 9, 8), dtype=np.int8))
    w = torch.from_numpy(rng.integers(-128, 128, (8, 4 // group, 3, 2), dtype=np.int8))
    bias = torch.from_numpy(rng.integers(-(2**30), 2**30, 8, dtype=np.int32))
    padded = F.pad(x.to(torch.int64) - zero_point, (pads[1], pads[3], pads[0], pads[2]))
    expected = F.conv2d(padded, w.to(torch.int64), bias.to(torch.int64), stride, 0, dilation, group)
    y = integer_conv(
        x, w, bias, group=group, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads, x_zero_point=zero_point
    )
    assert y.dtype == torch.int32
    assert torch.equal(y.to(torch.int64), expected)


def test_sums_beyond_float32_integers_stay_exact():
    x = torch.full((1, 2000, 1, 1), 127, dtype=torch.int8)
    w = torch.full((1, 2000, 1, 1), 127, dtype=torch.int8)
    x[0, 0], w[0, 0] = 1, 1
    assert integer_conv(x, w).item() == 1999 * 127 * 127 + 1


def test_without_bias_and_with_one_for_all():
    x, w = torch.ones(1, 2, 3, dtype=torch.int8), torch.ones(2, 2, 2, dtype=torch.int8)
    assert integer_conv(x, w).tolist() == [[[4, 4]] * 2]
    assert integer_conv(x, w, torch.tensor([1], dtype=torch.int32)).tolist() == [[[5, 5]] * 2]
