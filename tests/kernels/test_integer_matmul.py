import pytest
import torch

from porting_kernels.errors import ShapeError
from porting_kernels.integer_matmul import integer_matmul


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("zero_point", [0, -128, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (17, 33, 9), (5, 1, 2), (1, 512, 3)])
def test_equals_int64_product(shape, zero_point):
    m, k, n = shape
    a, b = random(2, m, k, seed=1), random(k, n, seed=2)
    bias = torch.arange(n, dtype=torch.int32) * 1000
    expected = (a.to(torch.int64) - zero_point) @ b.to(torch.int64) + bias
    assert torch.equal(integer_matmul(a, b, bias, a_zero_point=zero_point).to(torch.int64), expected)


def test_operands_that_are_not_contiguous():
    a, b = random(6, 4, seed=3).t(), random(5, 6, seed=4).t()
    assert torch.equal(integer_matmul(a, b).to(torch.int64), a.to(torch.int64) @ b.to(torch.int64))


def test_no_rows():
    assert integer_matmul(random(0, 4, seed=0), random(4, 3, seed=0)).shape == (0, 3)


def test_sums_beyond_int32_wrap():
    a = torch.full((1, 140_000), -128, dtype=torch.int8)
    assert integer_matmul(a, a.t()).item() == 140_000 * 128 * 128 - 2**32


@pytest.mark.parametrize(("a", "b"), [((2, 3), (4, 5)), ((3,), (3, 4)), ((2, 3), (1, 3, 4))])
def test_operands_that_do_not_fit_are_refused(a, b):
    with pytest.raises(ShapeError, match="do not fit"):
        integer_matmul(random(*a, seed=0), random(*b, seed=0))


def test_one_column_times_one_row():
    """torch 2.13's own int8 product is wrong where K is 1."""
    a, b = torch.tensor([[3], [-128], [0]], dtype=torch.int8), torch.tensor([[5, -128, 127, 1]], dtype=torch.int8)
    assert torch.equal(integer_matmul(a, b), (a.int() * b.int()))
