import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from porting_kernels.dynamic_quantize import dynamic_quantize
from porting_kernels.numerics import Numerics
from porting_kernels.registry import Context

CONTEXT = Context(1, 2)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)


def quantize(x, smooth=None, **attributes):
    return dynamic_quantize(x, smooth, context=attributes.pop("context", CONTEXT), **attributes)


def test_hand_computed_rows():
    """127 is the largest magnitude of row 0, so its scale is 1 and ties go to the even code; row 1 is all zeros."""
    x = torch.tensor([[127.0, -0.5, 1.5, 2.5, -63.49], [0.0, -0.0, 0.0, 0.0, 0.0]])
    codes, scale = quantize(x)
    assert codes.dtype == torch.int8
    assert codes.tolist() == [[127, 0, 2, 2, -63], [0, 0, 0, 0, 0]]
    assert scale.tolist() == [1.0, 0.0]


def test_four_bits_use_seven_levels():
    codes, scale = quantize(torch.tensor([[14.0, -14.0, 3.0, 1.0]]), bits=4)
    assert (codes.tolist(), scale.tolist()) == ([[7, -7, 2, 0]], [2.0])


def test_smoothing_multiplies_before_the_largest_is_found():
    codes, scale = quantize(torch.tensor([[1.0, 100.0]]), torch.tensor([127.0, 0.01]))
    assert (codes.tolist(), scale.tolist()) == ([[127, 1]], [1.0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_gives_nan_downstream_and_spoils_no_other_row(bad):
    codes, scale = quantize(torch.tensor([[1.0, bad, -2.0], [1.0, 0.0, -2.0]]))
    assert torch.isinf(scale[0])
    assert codes[0].tolist() == [0, 0, 0]
    assert torch.isnan(codes[0].float() * scale[0]).all()
    assert codes[1].tolist() == [64, 0, -127]


def test_ties_follow_the_numerics():
    context = Context(1, 2, Numerics(quantize_rounding="half_away"))
    assert quantize(torch.tensor([[127.0, 0.5, -1.5]]), context=context)[0].tolist() == [[127, 1, -2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype):
    x = torch.randn(4, 33, generator=torch.Generator().manual_seed(0)).to(dtype)
    for got, expected in zip(quantize(x), quantize(x.float()), strict=True):
        assert torch.equal(got, expected)


def test_axes_in_front_keep_their_extents():
    codes, scale = quantize(torch.ones(2, 3, 5))
    assert (codes.shape, scale.shape) == ((2, 3, 5), (2, 3))


@settings(max_examples=200)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=6),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_error_is_at_most_half_a_step_and_the_largest_has_the_last_code(x):
    """Half a step, and the float32 rounding of the quotient, of the scale and of the product."""
    codes, scale = quantize(torch.from_numpy(x))
    back = codes.double() * scale.double().unsqueeze(-1)
    assert ((back - torch.from_numpy(x).double()).abs() <= scale.double().unsqueeze(-1) * 0.50002 + 1e-44).all()
    normal = scale > 1e-37
    assert (codes.abs().amax(-1)[normal] == 127).all()
