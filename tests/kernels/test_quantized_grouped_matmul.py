import pytest
import torch

from porting_kernels.errors import ShapeError
from porting_kernels.quantized_grouped_matmul import quantized_grouped_matmul
from porting_kernels.registry import Context

CONTEXT = Context(1)
OFFSETS = {
    "even": [2, 4, 6, 8],
    "one expert never hit": [3, 3, 5, 8],
    "all to one": [0, 0, 8, 8],
    "one row": [0, 1, 1, 1],
    "no rows": [0, 0, 0, 0],
}


def codes(*shape, seed=0, low=-128, high=128):
    return torch.randint(low, high, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def scales(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.01


def row_by_row(a, a_scale, w, w_scale, offsets, bias):
    """In float64, weights dequantized first."""
    e, n, k = w.shape
    wide = w.double().reshape(e, n, -1, k // w_scale.reshape(e, n, -1).shape[2]) * w_scale.double().reshape(e, n, -1, 1)
    expert = torch.searchsorted(torch.tensor(offsets), torch.arange(a.shape[0]), right=True)
    rows = a.double() * a_scale.double()[:, None]
    return torch.einsum("mk,mnk->mn", rows, wide.reshape(e, n, k)[expert]) + bias.double()[expert]


@pytest.mark.parametrize("groups", [None, 1, 3])
@pytest.mark.parametrize("case", OFFSETS)
def test_equals_products_row_by_row(case, groups):
    """Tolerance: four float32 roundings a result, and one more a group."""
    offsets = OFFSETS[case]
    m = offsets[-1]
    w_scale = scales(4, 5) if groups is None else scales(4, 5, groups)
    operands = codes(m, 12), scales(m, seed=1), codes(4, 5, 12, seed=2, low=-8, high=8), w_scale
    bias = scales(4, 5, seed=3)
    y = quantized_grouped_matmul(*operands, torch.tensor(offsets), bias, bits=4, context=CONTEXT)
    expected = row_by_row(*operands, offsets, bias)
    torch.testing.assert_close(y, expected.float(), rtol=1e-6, atol=1e-4)


class Lazy:
    """A stack that reads an expert when asked and notes which."""

    def __init__(self, w):
        self.shape, self.asked, self._w = tuple(w.shape), [], w

    def __getitem__(self, expert):
        self.asked.append(expert)
        return self._w[expert]


def test_a_streamed_stack_is_asked_once_for_each_expert_with_rows():
    lazy = Lazy(codes(4, 5, 12))
    quantized_grouped_matmul(codes(8, 12), scales(8), lazy, scales(4, 5), torch.tensor([3, 3, 5, 8]), context=CONTEXT)
    assert lazy.asked == [0, 2, 3]


def test_result_is_rounded_once_to_the_dtype_of_the_node():
    operands = codes(8, 12), scales(8) * 1e-3, codes(4, 5, 12), scales(4, 5), torch.tensor([3, 3, 5, 8])
    wide = quantized_grouped_matmul(*operands, context=CONTEXT)
    assert torch.equal(quantized_grouped_matmul(*operands, to=16, context=CONTEXT), wide.bfloat16())


@pytest.mark.parametrize("w_scale", [(4,), (4, 6), (4, 5, 5), (3, 5)])
def test_scales_that_do_not_fit(w_scale):
    with pytest.raises(ShapeError):
        quantized_grouped_matmul(
            codes(2, 12), scales(2), codes(4, 5, 12), scales(*w_scale), torch.tensor([0, 0, 1, 2]), context=CONTEXT
        )
