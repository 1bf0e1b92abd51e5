from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting.errors import DtypeError, ShapeError, UsageError
from porting.quantization.scaled_weight import ScaledWeight
from porting.weights.store import WeightStore
from porting.weights.view import WeightView


def test_columns_or_rows_of_a_stack(experts: tuple[WeightStore, torch.Tensor]) -> None:
    store, values = experts
    view = WeightView.stacked([WeightView.of(store, f"e{e}.weight", torch.bfloat16) for e in range(3)])
    factors = torch.rand(256, generator=torch.Generator().manual_seed(1)) + 0.5
    scaled = ScaledWeight(view, factors)
    assert store.data_bytes_read == 0
    assert torch.equal(scaled.tensor(), (values * factors).bfloat16()), "rounded once, from what is stored"
    assert torch.equal(scaled.part(2).as_dtype(torch.float32).tensor(), values[2] * factors)
    turned = ScaledWeight(view.transposed(), factors, axis=-2).as_dtype(torch.float32)
    assert torch.equal(turned.part(1).tensor(), (values[1] * factors).T)
    assert torch.equal(torch.cat([rows for _, rows in turned.blocks(4 << 20)]), (values * factors).mT.reshape(-1, 200))


def test_refusals() -> None:
    w = ir.tensor(np.ones((2, 3), np.float32))
    for factors, axis in ((torch.ones(2), -1), (torch.ones(3), -2), (torch.ones(3).double(), -1), (torch.ones(3), 0)):
        with pytest.raises(ShapeError):
            ScaledWeight(w, factors, axis=axis)
    scaled = ScaledWeight(w, torch.ones(3))
    with pytest.raises(ShapeError):
        scaled.part(0)
    with pytest.raises(IndexError):
        scaled.read(0, 3)
    with pytest.raises(DtypeError):
        scaled.as_dtype(torch.int8)
    with pytest.raises(UsageError, match="too small"):
        next(scaled.blocks(10))
