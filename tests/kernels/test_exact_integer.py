from __future__ import annotations

import torch

from porting_kernels.exact_integer import contraction_dtype, to_int32


def test_float32_up_to_its_largest_run_of_integers_and_float64_beyond():
    x = torch.full((1, 4), 128, dtype=torch.int32)
    w = torch.full((2, 4), 32767, dtype=torch.int32)
    assert contraction_dtype(x, w) == torch.float32  # 128 * 4 * 32767 = 2**24 - 512
    w[1, 3] = 32768 + 3
    assert contraction_dtype(x, w) == torch.float64  # exactly 2**24


def test_the_most_negative_int8_counts_with_its_magnitude():
    x = torch.full((1, 1024), -128, dtype=torch.int8)
    w = torch.full((1, 1024), -128, dtype=torch.int8)
    assert contraction_dtype(x, w) == torch.float64  # 128 * 128 * 1024 = 2**24


def test_sums_beyond_int32_wrap():
    assert to_int32(torch.tensor([2.0**31], dtype=torch.float64)).item() == -(2**31)
