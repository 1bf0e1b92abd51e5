import pytest
import torch

from porting_kernels.errors import ShapeError
from porting_kernels.grouped_matmul import grouped_matmul

OFFSETS = {
    "even": [2, 4, 6, 8],
    "one expert never hit": [3, 3, 5, 8],
    "all to one": [0, 0, 8, 8],
    "only the last": [0, 0, 0, 8],
    "one row": [0, 1, 1, 1],
    "no rows": [0, 0, 0, 0],
}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def row_by_row(x, w, offsets, bias):
    expert = torch.searchsorted(offsets, torch.arange(x.shape[0]), right=True)
    return torch.einsum("mk,mkn->mn", x, w[expert]) + bias[expert]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("case", OFFSETS)
def test_equals_a_product_row_by_row(case, transposed):
    """Tolerance: float32 sums of 5 products and a bias against float64."""
    offsets = torch.tensor(OFFSETS[case])
    x, w, bias = random(OFFSETS[case][-1], 5), random(4, 5, 3, seed=1), random(4, 3, seed=2)
    stored = w.transpose(1, 2).contiguous() if transposed else w
    y = grouped_matmul(x, stored, offsets, bias, transposed=transposed)
    expected = row_by_row(x.double(), w.double(), offsets, bias.double())
    torch.testing.assert_close(y, expected.float(), rtol=1e-5, atol=1e-6)


def test_no_bias_and_one_bias_an_expert():
    x, w, offsets = random(8, 5), random(4, 5, 3), torch.tensor([2, 4, 6, 8])
    plain = grouped_matmul(x, w, offsets)
    assert torch.equal(plain, grouped_matmul(x, w, offsets, torch.zeros(4, 1)))
    shifted = grouped_matmul(x, w, offsets, torch.arange(4.0).reshape(4, 1))
    assert torch.equal(shifted, plain + torch.tensor([0, 0, 1, 1, 2, 2, 3, 3.0])[:, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_adds_in_float32_and_rounds_once(dtype):
    x, w, bias = (random(*s, dtype=dtype, seed=s[0]) for s in ((8, 5), (4, 5, 3), (4, 3)))
    offsets = torch.tensor([3, 3, 5, 8])
    wide = grouped_matmul(x.float(), w.float(), offsets, bias.float())
    assert torch.equal(grouped_matmul(x, w, offsets, bias), wide.to(dtype))


def test_float64_stays_float64():
    x, w, offsets = random(2, 5, dtype=torch.float64), random(1, 5, 3, dtype=torch.float64), torch.tensor([2])
    assert torch.equal(grouped_matmul(x, w, offsets), x @ w[0])


class Lazy:
    """A stack that is not in memory: it reads an expert when asked and notes which."""

    def __init__(self, w: torch.Tensor) -> None:
        self.shape = tuple(w.shape)
        self.asked: list[int] = []
        self._w = w

    def __getitem__(self, expert: int) -> torch.Tensor:
        self.asked.append(expert)
        return self._w[expert]


def test_a_streamed_stack_is_asked_once_for_each_expert_with_rows():
    x, w, offsets = random(8, 5), random(4, 3, 5), torch.tensor([3, 3, 5, 8])
    lazy = Lazy(w)
    assert torch.equal(grouped_matmul(x, lazy, offsets, transposed=1), grouped_matmul(x, w, offsets, transposed=1))
    assert lazy.asked == [0, 2, 3]


@pytest.mark.parametrize(
    "x, w, offsets, bias, error",
    [
        ((8, 4), (2, 5, 3), [4, 8], None, "grouped product"),
        ((8, 5), (2, 5, 3), [8], None, "grouped product"),
        ((8, 5), (2, 5, 3), [4, 7], None, "do not cover"),
        ((8, 5), (2, 5, 3), [9, 8], None, "do not cover"),
        ((8, 5), (2, 5, 3), [-1, 8], None, "do not cover"),
        ((8, 5), (2, 5, 3), [4, 8], (2, 2), "bias"),
        ((8, 5), (2, 5, 3), [4, 8], (3,), "bias"),
    ],
)
def test_operands_that_do_not_fit_are_refused(x, w, offsets, bias, error):
    with pytest.raises(ShapeError, match=error):
        grouped_matmul(random(*x), random(*w), torch.tensor(offsets), None if bias is None else random(*bias))
