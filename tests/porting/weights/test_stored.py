"""Integer codes of stored rows: those of the float32 numbers, whatever the rows are stored as."""

from __future__ import annotations

import pytest
import torch

from porting.weights import stored
from porting.weights.store import WeightStore
from porting.weights.stored import Stored
from porting_kernels import native


def codes_of(weight: Stored, rows: range, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.empty(len(rows), weight.entry.columns, dtype=torch.int8)
    scales, _ = weight.quantize_into(rows, codes, **options)
    return codes, scales


def floats_of(weight: Stored, rows: range) -> torch.Tensor:
    floats = torch.empty(len(rows), weight.entry.columns)
    weight.read_into(rows, range(weight.entry.columns), floats)
    return floats


@pytest.mark.parametrize("chunk", [1 << 21, 1000])
@pytest.mark.parametrize("bits, group, search", [(8, None, "absmax"), (4, 20, "mse"), (8, 100, "absmax")])
@pytest.mark.parametrize("rows", [range(390), range(127, 131), range(130, 390), range(5, 6)], ids=str)
def test_of_a_pile_of_float8_matrices(
    checkpoint, quantized, rows, bits, group, search, chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks begin anew with each matrix of 130 rows; what is read at a time ends anywhere."""
    monkeypatch.setattr(stored, "CHUNK", chunk)
    codes, scales = quantized((3, 130, 200), 0)
    store = WeightStore(checkpoint({"model.safetensors": {"w.weight": codes, "w.weight_scale_inv": scales}}))
    weight = Stored(store, store.entry("w.weight"), store.entry("w.weight_scale_inv"), (128, 128))
    found = codes_of(weight, rows, bits=bits, group=group, search=search)
    expected = native.quantize_rows(floats_of(weight, rows), bits=bits, group=group, search=search)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_of_floats(checkpoint, dtype: torch.dtype) -> None:
    w = torch.randn(40, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    store = WeightStore(checkpoint({"model.safetensors": {"w": w}}))
    found = codes_of(Stored(store, store.entry("w")), range(3, 40), bits=8, group=None, search="absmax")
    expected = native.quantize_rows(w[3:].to(torch.float32), bits=8)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_codes_that_are_not_numbers_are_counted(checkpoint, quantized) -> None:
    codes, scales = quantized((4, 128), 0)
    codes.view(torch.uint8)[1, 5] = 0x7F
    store = WeightStore(checkpoint({"model.safetensors": {"w.weight": codes, "w.weight_scale_inv": scales}}))
    weight = Stored(store, store.entry("w.weight"), store.entry("w.weight_scale_inv"), (128, 128))
    found, scale = codes_of(weight, range(4), bits=8, group=None, search="absmax")
    assert store.nan_codes == {"w.weight": 1}
    assert scale.isnan().flatten().tolist() == [False, True, False, False]
    assert not found[1].any()
