from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from porting.errors import ParityError
from porting.parity.metrics import Accumulator, Metrics, measure, significant, ulp_distance


def test_numbers_by_hand():
    m = measure(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    assert m.count == 2
    assert m.max_abs == 1.0
    assert m.rel_l2 == pytest.approx(1 / 5)
    assert m.sqnr_db == pytest.approx(10 * math.log10(25))
    assert m.cosine == pytest.approx(21 / (5 * math.sqrt(18)))
    assert m.reference_max == 4.0
    assert m.mismatches is None


def test_ends_of_the_scale_are_finite_numbers():
    same = measure(torch.ones(3), torch.ones(3))
    assert (same.sqnr_db, same.rel_l2, same.cosine, same.max_ulp) == (300.0, 0.0, 1.0, 0)
    lost = measure(torch.zeros(3), torch.ones(3))
    assert (lost.sqnr_db, lost.rel_l2, lost.cosine) == (-300.0, 1e15, 0.0)
    silent = measure(torch.zeros(3), torch.zeros(3))
    assert (silent.sqnr_db, silent.cosine) == (300.0, 1.0)
    empty = measure(torch.zeros(0), torch.zeros(0))
    assert (empty.count, empty.sqnr_db) == (0, 300.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_step_of_the_format_is_one_ulp(dtype):
    x = torch.tensor([1.0, -1.0, 0.0, 1e-7, 500.0], dtype=dtype)
    up = torch.nextafter(x, torch.full_like(x, math.inf))
    assert ulp_distance(x, up) == 1
    assert ulp_distance(x.double(), x) == 0


def test_ulp_across_zero_counts_both_sides():
    tiny = torch.finfo(torch.float32).smallest_normal * 2**-23
    assert ulp_distance(torch.tensor([-tiny]), torch.tensor([tiny])) == 2
    assert ulp_distance(torch.tensor([-0.0]), torch.tensor([0.0])) == 0


def test_not_finite_is_counted_once_and_left_out_of_the_sums():
    nan, inf = math.nan, math.inf
    reference = torch.tensor([1.0, 1.0, nan, nan, inf, inf, -inf, 2.0])
    result = torch.tensor([1.0, nan, nan, 1.0, inf, -inf, 1.0, inf])
    m = measure(reference, result)
    assert m.nan_count == 2
    assert m.inf_count == 3
    assert m.nonfinite_count == 5
    assert m.overflows == 2
    assert m.reference_max == 2.0
    assert m.sqnr_db == 300.0


def test_masks_written_as_large_negative_numbers_are_minus_infinity():
    low = torch.finfo(torch.float32).min
    reference = torch.tensor([low, -1e9, low, 1.0])
    m = measure(reference, torch.tensor([-math.inf, -math.inf, -65504.0, 0.5], dtype=torch.float16))
    assert m.inf_count == 0
    assert m.rel_l2 == 0.5


def test_saturation_is_an_overflow():
    m = measure(torch.tensor([1e5, 7e4, 65504.0]), torch.tensor([65504.0, 65504.0, 65504.0], dtype=torch.float16))
    assert (m.overflows, m.inf_count, m.reference_max) == (2, 0, 1e5)


def test_positive_overflow_is_no_mask():
    assert measure(torch.tensor([1e9]), torch.tensor([1e9]).half()).inf_count == 1
    assert measure(torch.tensor([-7e4]), torch.tensor([-7e4]).half()).inf_count == 1


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_integers_count_mismatches(dtype):
    m = measure(torch.tensor([1, 2, 3], dtype=dtype), torch.tensor([1, 5, 3], dtype=dtype))
    assert (m.mismatches, m.max_abs, m.max_ulp) == (1, 3.0, None)
    assert m.mismatch_fraction == pytest.approx(1 / 3)


def test_large_integers_are_compared_exactly():
    assert measure(torch.tensor([2**60]), torch.tensor([2**60 + 1])).mismatches == 1


def test_booleans_count_mismatches():
    assert measure(torch.tensor([True, False]), torch.tensor([True, True])).mismatches == 1


def test_streaming_equals_one_pass(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    reference = [torch.randn(7, 11, generator=generator) for _ in range(5)]
    result = [r + 1e-3 * torch.randn(7, 11, generator=generator) for r in reference]
    streamed = Accumulator()
    for r, s in zip(reference, result, strict=True):
        part = Accumulator()
        part.update(r, s)
        streamed.merge(part)
    whole = measure(torch.stack(reference), torch.stack(result))
    got = streamed.metrics()
    assert got.count == whole.count
    assert got.rel_l2 == pytest.approx(whole.rel_l2, rel=1e-12)
    assert got.max_ulp == whole.max_ulp
    monkeypatch.setattr("porting.parity.metrics._CHUNK", 8)
    chunked = measure(torch.stack(reference), torch.stack(result))
    assert chunked.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)


def test_float64_accumulation_sees_what_float32_sums_lose():
    reference = torch.full((1 << 20,), 1.0)
    result = reference.clone()
    result[0] = 1.0 + 2**-20
    assert measure(reference, result).rel_l2 == pytest.approx(2**-20 / 2**10, rel=1e-12)


def test_shapes_must_agree():
    with pytest.raises(ParityError, match="different shapes") as error:
        Accumulator().update(torch.zeros(2), torch.zeros(3), where="/conv1")
    assert error.value.exit_code == 1
    assert "/conv1" in str(error.value)


def test_json_is_rounded_and_plain():
    document = measure(torch.tensor([1.0]), torch.tensor([1.1])).to_json()
    assert document["max_abs"] == significant(float(np.float32(1.1)) - 1)
    assert set(document) == set(Metrics.__dataclass_fields__)
    assert significant(1.23456789012) == 1.23456789
