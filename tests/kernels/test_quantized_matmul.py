import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_kernels.errors import ShapeError
from porting_kernels.numerics import REF64
from porting_kernels.quantized_matmul import quantized_matmul
from porting_kernels.registry import Context

CONTEXT = Context(1)


def codes(*shape, seed=0):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def scales(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.01


def test_hand_computed():
    a, w = torch.tensor([[1, -2], [127, 3]], dtype=torch.int8), torch.tensor([[4, 5], [-128, 0]], dtype=torch.int8)
    y = quantized_matmul(
        a, torch.tensor([0.5, 2.0]), w, torch.tensor([1.0, 0.25]), torch.tensor([10.0]), context=CONTEXT
    )
    assert y.tolist() == [[-3 + 10, -16 + 10], [1046 + 10, -8128 + 10]]


@settings(max_examples=100)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31))
def test_integers_are_exact_and_each_scaling_is_rounded_to_float32(m, k, n, seed):
    a, w, bias = codes(m, k, seed=seed), codes(n, k, seed=seed + 1), scales(n, seed=2)
    a_scale, w_scale = scales(m, seed=3), scales(n, seed=4)
    acc = a.long() @ w.long().t()
    expected = acc.float() * w_scale * a_scale[:, None] + bias
    assert torch.equal(quantized_matmul(a, a_scale, w, w_scale, bias, context=CONTEXT), expected)


def test_deep_products_beyond_the_integers_of_float32():
    """4096 products of 127 * 127 make 66 million, above 2**24."""
    a, w = torch.full((1, 4096), 127, dtype=torch.int8), torch.full((1, 4096), 127, dtype=torch.int8)
    a[0, 0] = 126
    y = quantized_matmul(a, torch.ones(1), w, torch.ones(1), context=Context(1, numerics=REF64))
    assert y.item() == 4096 * 127 * 127 - 127


@pytest.mark.parametrize("to, dtype", [(10, torch.float16), (16, torch.bfloat16)])
def test_result_is_rounded_once(to, dtype):
    operands = codes(3, 8), scales(3) * 1e-3, codes(5, 8, seed=1), scales(5)
    assert torch.equal(
        quantized_matmul(*operands, to=to, context=CONTEXT), quantized_matmul(*operands, context=CONTEXT).to(dtype)
    )


def test_axes_in_front_and_no_rows():
    a = codes(2, 3, 8)
    y = quantized_matmul(a, scales(2, 3), codes(5, 8), scales(5), context=CONTEXT)
    assert y.shape == (2, 3, 5)
    assert quantized_matmul(a[:0], scales(0, 3), codes(5, 8), scales(5), context=CONTEXT).shape == (0, 3, 5)


@pytest.mark.parametrize("a, a_scale", [((2, 7), (2,)), ((2, 8), (3,)), ((8,), ())])
def test_operands_that_do_not_fit(a, a_scale):
    with pytest.raises(ShapeError, match="do not fit"):
        quantized_matmul(codes(*a), scales(*a_scale), codes(5, 8), scales(5), context=CONTEXT)
