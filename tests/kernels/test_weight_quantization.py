"""Codes and scales of weights: hand-computed values, and formulas of their own in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels.errors import DtypeError, PortingError, ShapeError
from porting_kernels.weight_quantization import LEAST_SCALE, Findings, quantize_rows

NAN, INF = float("nan"), float("inf")


def test_int8_of_a_row_by_hand() -> None:
    w = torch.tensor([[127.0, -127.0, 0.5, 1.5, -0.5, 63.4]])
    codes, scales, findings = quantize_rows(w, bits=8)
    assert codes.tolist() == [[127, -127, 0, 2, 0, 63]], "halves go to the even code"
    assert scales.tolist() == [[1.0]]
    assert findings == Findings()


def test_a_scale_of_the_whole_range_by_hand() -> None:
    """127.5 units reach from end to end: the positive end is clipped by half a code, the negative one is not."""
    w = torch.tensor([[127.5, 63.0, -1.5]])
    codes, scales, findings = quantize_rows(w, bits=8, divisor=127.5)
    assert codes.tolist() == [[127, 63, -2]]
    assert scales.tolist() == [[1.0]]
    assert findings == Findings(saturated=1)
    codes, _, findings = quantize_rows(-w, bits=8, divisor=127.5)
    assert codes.tolist() == [[-128, -63, 2]]
    assert findings == Findings()
    with pytest.raises(PortingError, match="no such divisor"):
        quantize_rows(w, bits=8, divisor=128.0)


def test_int4_in_groups_by_hand() -> None:
    w = torch.tensor([[7.0, -3.5, 0.0, 1.0, 14.0, 14.0, -14.0, 3.0]])
    codes, scales, _ = quantize_rows(w, bits=4, group=4)
    assert scales.tolist() == [[1.0, 2.0]]
    assert codes.tolist() == [[7, -4, 0, 1, 7, 7, -7, 2]]


def test_the_search_clips_one_outlier_among_many_small_numbers() -> None:
    # 1000 ones and a 14, base 2. Scale 1 keeps the ones and clips the 14 to 7: error 49. A little more takes from the
    # 14 and gives to the ones: 33/64 has 1000 * (1/32)**2 + (14 - 7.21875)**2 = 46.96, 34/64 has 3.91 + 43.07 = 46.98.
    w = torch.ones(1, 1001)
    w[0, ::2] = -1
    w[0, 0] = 14
    codes, scales, findings = quantize_rows(w, bits=4, search="mse")
    assert scales.item() == 2 * 33 / 64
    assert codes[0, :3].tolist() == [7, 1, -1]
    assert findings.saturated == 1


def test_the_negative_end_has_one_code_more_and_the_search_uses_it() -> None:
    # -8 with 0 to 7: a scale of 1, which is 7/8 of absmax / 7, represents all of them.
    w = torch.tensor([[-8.0, *range(8)] * 20])
    codes, scales, findings = quantize_rows(w, bits=4, search="mse")
    assert scales.item() == 1.0
    assert torch.equal(codes.to(torch.float32), w)
    assert findings.saturated == 0


def test_equal_errors_go_to_the_larger_factor() -> None:
    w = torch.tensor([[7.0, -7.0]])
    assert quantize_rows(w, bits=4, search="mse")[1].item() == 1.0, "many smaller factors are exact as well"


def test_a_row_of_zeros_has_the_least_scale_and_is_counted() -> None:
    codes, scales, findings = quantize_rows(torch.tensor([[0.0, -0.0], [1.0, 0.0]]), bits=8)
    assert codes.tolist() == [[0, 0], [127, 0]]
    assert scales[0].item() == LEAST_SCALE > 0
    assert findings == Findings(zero=1)


@pytest.mark.parametrize("search", ["absmax", "mse"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_spoils_its_group_only(search: str, bad: float) -> None:
    w = torch.tensor([[1.0, 2.0, bad, 4.0]])
    codes, scales, findings = quantize_rows(w, bits=8, group=2, search=search)
    assert codes[0, 2:].tolist() == [0, 0]
    assert scales.isnan().tolist() == [[False, True]]
    assert findings == Findings(not_finite=1)


def test_a_scale_that_would_be_subnormal_becomes_the_least_normal_one() -> None:
    w = torch.tensor([[2.0**-126, -(2.0**-125), 2.0**-149, 5 * 2.0**-127]])
    codes, scales, findings = quantize_rows(w, bits=8)
    assert scales.item() == 2.0**-126
    assert codes.tolist() == [[1, -2, 0, 2]]
    assert findings == Findings(tiny=1)


def test_the_largest_floats_do_not_overflow() -> None:
    huge = torch.finfo(torch.float32).max
    for bits in (8, 4):
        codes, scales, findings = quantize_rows(torch.tensor([[huge, -huge, 1.0]]), bits=bits, search="mse")
        assert codes[0, 2] == 0
        assert torch.isfinite(scales).all()
        assert findings.not_finite == 0


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_nothing(shape: tuple[int, int]) -> None:
    codes, scales, findings = quantize_rows(torch.empty(shape), bits=8)
    assert codes.shape == shape
    assert scales.tolist() == [[LEAST_SCALE]] * shape[0]
    assert findings.zero == shape[0]


def test_refusals() -> None:
    with pytest.raises(DtypeError):
        quantize_rows(torch.zeros(2, 2, dtype=torch.bfloat16), bits=8)
    for shape, group in (((4,), None), ((2, 6), 4), ((2, 6), 0)):
        with pytest.raises(ShapeError):
            quantize_rows(torch.zeros(shape), bits=8, group=group)
    with pytest.raises(PortingError):
        quantize_rows(torch.zeros(2, 2), bits=5)
    with pytest.raises(PortingError):
        quantize_rows(torch.zeros(2, 2), bits=8, search="best")


@given(seed=st.integers(0, 2**31), bits=st.sampled_from([8, 4]), tail=st.sampled_from([1.0, 3.0]))
def test_every_code_is_the_nearest_one(seed: int, bits: int, tail: float) -> None:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 24, generator=g).pow(3 if tail > 1 else 1).float()
    codes, scales, findings = quantize_rows(w, bits=bits, group=8)
    limit = 2 ** (bits - 1) - 1
    expected = w.view(5, 3, 8).abs().amax(-1) / limit
    assert torch.equal(scales, expected)
    spread = scales.double().repeat_interleave(8, 1)
    error = (codes.double() * spread - w.double()).abs()
    assert (error <= spread * (0.5 + 1e-5)).all()
    assert findings == Findings()


@given(seed=st.integers(0, 2**31), columns=st.integers(1, 200), tail=st.integers(1, 4))
def test_the_search_finds_the_best_coarse_factor_or_a_better_one_beside_it(seed: int, columns: int, tail: int) -> None:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(1, columns, generator=g).pow(tail)
    base = (w.abs().max() / 7).item()

    def error(scale: float) -> float:
        q = torch.round(w.double() / scale).clamp(-8, 7)
        return (q * scale - w.double()).square().sum().item()

    coarse = {j: error(base * j / 64) for j in range(64, 0, -4)}
    middle = min(coarse, key=lambda j: coarse[j])
    least = min(error(base * j / 64) for j in range(max(1, middle - 3), min(64, middle + 3) + 1))
    _, scale, _ = quantize_rows(w, bits=4, search="mse")
    # A near-tie of two coarse factors, decided by float32, leads to another neighbourhood.
    tied = any(j != middle and e <= coarse[middle] * (1 + 1e-4) for j, e in coarse.items())
    assert error(scale.item()) <= (coarse[middle] if tied else least) * (1 + 1e-4) + 1e-12 * base**2
