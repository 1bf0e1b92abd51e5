from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting.errors import DtypeError, ShapeError
from porting.quantization.float_rows import FloatRows
from porting.weights.store import WeightStore
from porting.weights.view import WeightView


def read(rows: FloatRows, first: int, last: int, columns: int) -> torch.Tensor:
    out = torch.empty(last - first, columns)
    rows.reader()(first, last, out, 1 << 20)
    return out


def test_a_view_is_read_from_what_is_stored_and_not_through_its_dtype(
    experts: tuple[WeightStore, torch.Tensor],
) -> None:
    store, values = experts
    view = WeightView.of(store, "e0.weight", torch.bfloat16)
    assert not torch.equal(view.tensor().float(), values[0]), "bfloat16 loses bits here"
    assert torch.equal(read(FloatRows(view), 100, 150, 256), values[0, 100:150])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_ordinary_tensors_of_any_floating_type(dtype: type) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).astype(dtype)
    assert read(FloatRows(ir.tensor(array)), 1, 5, 4).tolist() == array.reshape(6, 4)[1:5].astype(float).tolist()


def test_a_lazy_tensor_is_asked_once_a_reader() -> None:
    asked = []

    def make() -> ir.Tensor:
        asked.append(1)
        return ir.tensor(np.ones((4, 2), np.float32))

    lazy = ir.LazyTensor(make, dtype=ir.DataType.FLOAT, shape=ir.Shape([4, 2]), cache=False)
    rows = FloatRows(lazy)
    assert not asked
    reader = rows.reader()
    for first in range(4):
        reader(first, first + 1, torch.empty(1, 2), 1)
    assert len(asked) == 1


def test_factors_multiply_columns_in_float32() -> None:
    factors = torch.tensor([3.0, 1 / 3])
    w = torch.tensor([[0.1, 0.7], [5.0, 2.0]])
    assert torch.equal(read(FloatRows(ir.tensor(w.numpy()), factors), 0, 2, 2), w * factors)


def test_refusals() -> None:
    with pytest.raises(DtypeError):
        FloatRows(ir.tensor(np.zeros((2, 2), np.int8)))
    for factors in (torch.ones(3), torch.ones(2, dtype=torch.float64)):
        with pytest.raises(ShapeError):
            FloatRows(ir.tensor(np.zeros((2, 2), np.float32)), factors)


def test_a_transposed_view_is_read_by_pages(experts: tuple[WeightStore, torch.Tensor]) -> None:
    store, values = experts
    view = WeightView.of(store, "e0.weight", torch.float32)
    assert FloatRows(view).step(FloatRows(view).worthwhile(1024)) == 4
    turned = FloatRows(view.transposed())
    assert turned.step(turned.worthwhile(1024)) == 4096
    assert turned.step(1024) == 5, "where memory is short"
    assert torch.equal(read(FloatRows(view.transposed()), 3, 9, 200), values[0].T[3:9])
