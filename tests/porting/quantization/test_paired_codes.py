"""int4 codes two a byte: which neighbours share one, by rows, by blocks and by experts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting.errors import DtypeError, ShapeError
from porting.quantization.paired_codes import PairedCodes
from porting.quantization.quantized_weight import QuantizedTensor, quantize_weight
from porting.quantization.weight_spec import WeightSpec
from porting_passes.stored_forms import stored_form


def codes(*shape: int, group: int | None = None) -> QuantizedTensor:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return quantize_weight(ir.tensor(values), WeightSpec(4, group, "mse")).codes


def by_hand(numbers: np.ndarray, axis: int) -> np.ndarray:
    even, odd = (numbers.take(range(start, numbers.shape[axis], 2), axis).astype(int) for start in (0, 1))
    return ((even % 16) + 16 * (odd % 16)).astype(np.uint8).view(np.int8)


@pytest.mark.parametrize("axis", [-2, -1], ids=["channels", "inputs"])
@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8)], ids=["matrix", "experts"])
def test_the_even_neighbour_is_in_the_low_nibble(shape: tuple[int, ...], axis: int) -> None:
    plain = codes(*shape)
    paired = plain.paired(axis)
    want = by_hand(plain.numpy(), axis)
    assert paired.shape.numpy() == want.shape
    np.testing.assert_array_equal(paired.numpy(), want)
    np.testing.assert_array_equal(paired.read(1, 3).numpy(), want.reshape(-1, want.shape[-1])[1:3])
    blocks = [block.numpy() for _, block in paired.blocks(1 << 20)]
    np.testing.assert_array_equal(np.concatenate(blocks), want.reshape(-1, want.shape[-1]))
    if len(shape) == 3:
        np.testing.assert_array_equal(paired.part(1).numpy(), want[1])


def test_a_stored_form_pairs_lazy_and_plain_codes_alike() -> None:
    lazy = codes(3, 6, 256, group=128)
    made = []
    for tensor in (lazy, ir.tensor(lazy.numpy())):
        value = ir.Value(name="w", const_value=tensor)
        made.append(stored_form("int4_input_pairs", [value]))
    assert isinstance(made[0], PairedCodes)
    assert made[1].shape.numpy() == (3, 6, 128)
    np.testing.assert_array_equal(made[0].numpy(), made[1].numpy())


@pytest.mark.parametrize(("shape", "axis"), [((5, 8), -2), ((6, 7), -1)])
def test_an_odd_extent_has_no_pairs(shape: tuple[int, int], axis: int) -> None:
    with pytest.raises(ShapeError, match="bytes of two"):
        codes(*shape).paired(axis)


def test_bytes_have_no_other_type() -> None:
    import torch

    paired = codes(6, 8).paired(-1)
    assert paired.as_dtype(torch.int8).shape.numpy() == (6, 4)
    with pytest.raises(DtypeError):
        paired.as_dtype(torch.float32)
