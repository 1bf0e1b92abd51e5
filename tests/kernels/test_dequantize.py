import numpy as np
import pytest
import torch

from porting_kernels.dequantize import dequantize
from porting_kernels.errors import ShapeError
from porting_kernels.numerics import Numerics
from porting_kernels.registry import Context

EXACT = Context(1)


def test_per_channel_scale_along_an_axis():
    acc = torch.tensor([[1, -2], [3, 2**24 + 1]], dtype=torch.int32)
    scale = torch.tensor([0.1, 0.25])
    expected = acc.numpy().astype(np.float32) * np.float32([0.1, 0.25])
    np.testing.assert_array_equal(dequantize(acc, scale, axis=1, context=EXACT).numpy(), expected)
    np.testing.assert_array_equal(dequantize(acc.t(), scale, axis=-2, context=EXACT).numpy(), expected.T)


def test_fp19_cuts_the_scale():
    context = Context(1, numerics=Numerics(dequantize_scale="fp19"))
    # 0.1 = 0x3DCCCCCD -> 0x3DCCC000
    cut = np.uint32(0x3DCCC000).view(np.float32)
    y = dequantize(torch.tensor([1000], dtype=torch.int32), torch.tensor(0.1), axis=0, context=context)
    assert y.item() == np.float32(1000) * cut


def test_float16_overflow_is_infinite_or_saturates():
    acc, scale = torch.tensor([10**6, -(10**6)], dtype=torch.int32), torch.tensor([1.0])
    assert dequantize(acc, scale, dtype=10, context=EXACT).tolist() == [float("inf"), float("-inf")]
    context = Context(1, numerics=Numerics(dequantize_overflow="saturate"))
    assert dequantize(acc, scale, dtype=10, context=context).tolist() == [65504.0, -65504.0]


def test_float64_mode_rounds_nothing():
    context = Context(1, numerics=Numerics(float64=True))
    y = dequantize(torch.tensor([2**24 + 1], dtype=torch.int32), torch.tensor([0.5]), axis=0, context=context)
    assert y.dtype == torch.float64
    assert y.item() == (2**24 + 1) / 2


def test_scale_of_another_length_is_refused():
    with pytest.raises(ShapeError, match="does not fit"):
        dequantize(torch.zeros(2, 3, dtype=torch.int32), torch.ones(2), axis=1, context=EXACT)
