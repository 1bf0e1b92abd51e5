from __future__ import annotations

import torch

from porting_kernels.precision import is_half, rounds_once, widen


@rounds_once
def twice_cubed(x, scale=None, *, power=3):
    return x**power * 2, torch.tensor([1]), x.shape[0]


def test_half_operands_compute_in_float32_and_round_once():
    x = torch.tensor([1.001, -3.3], dtype=torch.float16)
    y, index, count = twice_cubed(x)
    assert y.dtype == torch.float16
    assert torch.equal(y, (x.float() ** 3 * 2).half())
    assert index.dtype == torch.int64
    assert count == 2


def test_wider_floats_pass_unchanged():
    for dtype in (torch.float32, torch.float64):
        assert twice_cubed(torch.ones(1, dtype=dtype))[0].dtype == dtype
    x = torch.ones(2)
    assert widen(x) is x
    assert not is_half(torch.float32)
