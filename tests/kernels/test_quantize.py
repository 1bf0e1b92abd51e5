import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels.numerics import Numerics
from porting_kernels.quantize import quantize
from porting_kernels.registry import Context

EXACT = Context(1)


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1),
    st.floats(2**-20, 2**20, width=32),
    st.integers(-128, 127),
)
def test_equals_float32_numpy(values, scale, offset):
    x = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        expected = np.clip(np.rint(x * np.float32(scale) + np.float32(offset)), -128, 127).astype(np.int8)
    y = quantize(torch.from_numpy(x), scale=scale, offset=offset, context=EXACT)
    np.testing.assert_array_equal(y.numpy(), expected)


@pytest.mark.parametrize(
    ("mode", "codes"), [("half_even", [0, 2, 0, -2]), ("half_away", [1, 2, -1, -2]), ("half_up", [1, 2, 0, -1])]
)
def test_ties_follow_the_numerics(mode, codes):
    context = Context(1, numerics=Numerics(quantize_rounding=mode))
    x = torch.tensor([0.5, 1.5, -0.5, -1.5])
    assert quantize(x, scale=1.0, context=context).tolist() == codes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes(dtype):
    x = torch.tensor([[-1.0, 0.25], [0.5, 300.0]], dtype=dtype)
    y = quantize(x, scale=100.0, offset=-1, context=EXACT)
    assert y.dtype == torch.int8
    assert y.tolist() == [[-101, 24], [49, 127]]


def test_a_view_that_is_not_contiguous():
    x = torch.arange(12.0).reshape(3, 4).t()[::2]
    assert quantize(x, scale=2.0, context=EXACT).tolist() == (x * 2).to(torch.int8).tolist()
