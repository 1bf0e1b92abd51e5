from __future__ import annotations

import numpy as np
import pytest
import torch

from porting_kernels.constants import constant, constant_of_shape
from porting_kernels.errors import PortingError


@pytest.mark.parametrize(
    "attributes, expected",
    [
        ({"value_float": 1.5}, torch.tensor(1.5)),
        ({"value_floats": [1.0, 2.0]}, torch.tensor([1.0, 2.0])),
        ({"value_int": 3}, torch.tensor(3)),
        ({"value_ints": [3, 4]}, torch.tensor([3, 4])),
        ({"value": torch.zeros(2, dtype=torch.int8)}, torch.zeros(2, dtype=torch.int8)),
    ],
)
def test_each_kind_of_constant(attributes, expected):
    found = constant(**attributes)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_a_constant_without_a_value_is_refused():
    with pytest.raises(PortingError, match="without a value"):
        constant()


def test_constant_of_shape(ours):
    found = constant_of_shape(torch.tensor([2, 0, 3]), value=torch.tensor([7]))
    assert found.shape == (2, 0, 3)
    assert found.dtype == torch.int64
    assert constant_of_shape(torch.tensor([], dtype=torch.int64), value=torch.tensor([7])).item() == 7
    np.testing.assert_array_equal(ours("ConstantOfShape", np.array([2, 3]))[0], np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("k", [-5, -1, 0, 2])
def test_eye_like(k, ours, stock):
    x = np.zeros((3, 4), np.int32)
    np.testing.assert_array_equal(ours("EyeLike", x, k=k, dtype=11)[0], stock("EyeLike", x, k=k, dtype=11)[0])
    assert ours("EyeLike", x, k=k)[0].dtype == np.int32


@pytest.mark.parametrize(
    "start, limit, delta", [(0, 5, 1), (5, 0, -2), (1, 1, 1), (3, 1, 1), (0, 1, 0.3), (-1, 1, 0.25)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64])
def test_ranges_match_stock(start, limit, delta, dtype, ours, stock):
    if np.dtype(dtype).kind == "i" and delta != int(delta):
        pytest.skip("integers have whole steps")
    operands = [np.array(value, dtype) for value in (start, limit, delta)]
    # onnxruntime adds up in its own order: one ULP.
    np.testing.assert_allclose(ours("Range", *operands)[0], stock("Range", *operands)[0], rtol=1e-6, atol=1e-7)
