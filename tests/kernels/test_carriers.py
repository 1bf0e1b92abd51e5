from __future__ import annotations

import numpy as np
import pytest
import torch

from porting_kernels.carriers import movable, moves, restored, through_numpy


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e8m0fnu])
def test_bits_survive_the_carrier(dtype):
    x = torch.tensor([0, 1, 2, 4]).to(dtype)
    back = restored(movable(x).flip(0), dtype)
    assert back.dtype == dtype
    assert back.float().tolist() == [4, 2, 1, *x[:1].float().tolist()]


def test_a_moving_kernel_takes_every_type():
    reverse = moves(lambda x: x.flip(0))
    assert reverse(torch.tensor([1, 2], dtype=torch.uint64)).tolist() == [2, 1]
    assert reverse(torch.tensor([1.0, 2.0])).tolist() == [2, 1]


def test_numpy_keeps_the_dtype_and_wraps_silently():
    x = torch.tensor([65535], dtype=torch.uint16)
    found = through_numpy(np.add, x, x)
    assert found.dtype == torch.uint16
    assert found.tolist() == [65534]
