import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels.errors import ShapeError
from porting_kernels.moe_combine import moe_combine


@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_slots_add_up_in_order_in_float32(tokens, slots, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((tokens * slots, 3), dtype=np.float32)
    index, weights = rng.permutation(tokens * slots), rng.random((tokens, slots), dtype=np.float32)
    expected = np.zeros((tokens, 3), np.float32)
    for slot in range(slots):
        for token in range(tokens):
            (row,) = np.flatnonzero(index == token * slots + slot)
            expected[token] = expected[token] + rows[row] * weights[token, slot]
    np.testing.assert_array_equal(moe_combine(*map(torch.from_numpy, (rows, index, weights))).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_rows_are_rounded_once(dtype):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, 8, generator=generator).to(dtype)
    index, weights = torch.randperm(24, generator=generator), torch.rand(6, 4, generator=generator)
    assert torch.equal(moe_combine(rows, index, weights), moe_combine(rows.float(), index, weights).to(dtype))


@pytest.mark.parametrize("rows, index", [((5, 2), 6), ((6, 2), 5), ((6, 2, 1), 6)])
def test_operands_that_do_not_fit_are_refused(rows, index):
    with pytest.raises(ShapeError, match="do not fit"):
        moe_combine(torch.zeros(rows), torch.arange(index), torch.ones(3, 2))
