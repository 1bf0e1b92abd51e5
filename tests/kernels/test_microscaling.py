"""MX formats against ml_dtypes, which has the element types and the scale type of its own."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels import microscaling
from porting_kernels.errors import PortingError, ShapeError


def expected(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """OCP MX 1.0, section 6.3, group by group: elements as float32, scales as exponents."""
    element, greatest, top = (
        (ml_dtypes.float8_e4m3fn, 448, 8) if bits == 8 else (ml_dtypes.float4_e2m1fn, 6, 2)
    )  # fmt: skip
    groups = values.reshape(len(values), -1, 32)
    exponents = np.floor(np.log2(np.abs(groups).max(2).astype(np.float64))).astype(int) - top
    scaled = groups / np.exp2(exponents)[:, :, None]
    elements = np.clip(scaled, -greatest, greatest).astype(np.float32).astype(element).astype(np.float32)
    return elements.reshape(values.shape), exponents


@pytest.mark.parametrize("bits", [8, 4])
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(-20, 20))
def test_codes_and_scales_are_those_of_the_standard(bits: int, seed: int, spread: float) -> None:
    values = (np.random.default_rng(seed).standard_normal((3, 64)) * 2.0**spread).astype(np.float32)
    codes, exponents, _ = microscaling.quantize(torch.from_numpy(values), bits)
    elements, powers = expected(values, bits)
    np.testing.assert_array_equal(exponents.numpy().astype(int) - 127, powers)
    ours = microscaling.dequantize(codes, exponents).numpy()
    np.testing.assert_array_equal(ours, elements * np.exp2(powers.repeat(32, 1).astype(np.float32)))


def test_e2m1_rounds_halves_to_the_even_code() -> None:
    halves = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 4).reshape(1, 32)
    codes, exponents, _ = microscaling.quantize(halves, 4)
    assert exponents.item() == 127
    assert codes[0, :8].tolist() == [0, 2, 2, 4, 4, 6, 6, 7]


def test_zero_nan_tiny_and_saturated_groups_are_counted() -> None:
    values = torch.zeros(5, 32)
    values[1, 3] = torch.nan
    values[2] = 1e-42
    values[3] = 1.99
    values[4] = 1.0
    codes, exponents, found = microscaling.quantize(values, 8)
    assert (found.zero, found.not_finite, found.tiny, found.saturated) == (1, 1, 1, 32)
    assert exponents[:, 0].tolist() == [1, 255, 1, 119, 119]
    assert torch.isnan(microscaling.dequantize(codes, exponents)[1]).all()


def test_other_bits_and_ragged_groups_are_refused() -> None:
    with pytest.raises(PortingError, match="8 or 4"):
        microscaling.quantize(torch.ones(1, 32), 6)
    with pytest.raises(ShapeError, match="32"):
        microscaling.quantize(torch.ones(1, 33), 8)
