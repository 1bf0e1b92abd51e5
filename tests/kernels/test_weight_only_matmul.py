import pytest
import torch

from porting_kernels.errors import ShapeError
from porting_kernels.weight_only_matmul import weight_only_grouped_matmul, weight_only_matmul


def codes(*shape, seed=0):
    return torch.randint(-8, 8, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("groups", [(), (1,), (3,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equals_a_float_product_with_the_dequantized_weight(dtype, groups):
    x, w, scale, bias = random(2, 3, 12, dtype=dtype), codes(5, 12), random(5, *groups, seed=1).abs(), random(5, seed=2)
    weight = torch.cat(
        [w[n].double() * scale[n].double().repeat_interleave(12 // (groups or (1,))[0]) for n in range(5)]
    )
    expected = x.double() @ weight.reshape(5, 12).t() + bias.double()
    y = weight_only_matmul(x, w, scale, bias, bits=4)
    assert y.dtype == dtype
    # One rounding to the result's dtype, and float32 sums of 12 products.
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("offsets", [[2, 4, 6, 8], [3, 3, 5, 8], [0, 0, 8, 8], [0, 0, 0, 0]])
def test_grouped_form_is_the_plain_form_of_each_expert(offsets):
    x, w, scale, bias = random(offsets[-1], 12), codes(4, 5, 12), random(4, 5, 3, seed=1).abs(), random(4, 5, seed=2)
    y = weight_only_grouped_matmul(x, w, scale, torch.tensor(offsets), bias, bits=4)
    bounds = [0, *offsets]
    parts = [weight_only_matmul(x[bounds[e] : bounds[e + 1]], w[e], scale[e], bias[e], bits=4) for e in range(4)]
    assert torch.equal(y, torch.cat(parts))


def test_operands_that_do_not_fit():
    with pytest.raises(ShapeError, match="scales"):
        weight_only_matmul(random(2, 12), codes(5, 12), random(5, 5))
    with pytest.raises(ShapeError, match="grouped"):
        weight_only_grouped_matmul(random(2, 11), codes(4, 5, 12), random(4, 5), torch.tensor([0, 0, 1, 2]))
