"""int4 codes by pairs, against the nibbles spelled out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels import int4
from porting_kernels.errors import ShapeError


def test_the_even_neighbour_is_in_the_low_nibble() -> None:
    codes = np.array([[1, -8], [-1, 7]], dtype=np.int8)
    assert int4.pack_pairs(codes, axis=0).view(np.uint8).tolist() == [[0xF1, 0x78]]
    assert int4.pack_pairs(codes, axis=1).view(np.uint8).tolist() == [[0x81], [0x7F]]


def test_an_odd_extent_is_refused() -> None:
    with pytest.raises(ShapeError, match="bytes of two"):
        int4.pack_pairs(np.zeros((3, 2), np.int8), axis=0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_unpacking_gives_the_codes_back(seed: int, axis: int) -> None:
    codes = np.random.default_rng(seed).integers(-8, 8, (4, 6, 2)).astype(np.int8)
    np.testing.assert_array_equal(int4.unpack_pairs(int4.pack_pairs(codes, axis), axis), codes)
    np.testing.assert_array_equal(int4.unpack_pairs(int4.pack_pairs(codes, axis - 3), axis - 3), codes)


def test_the_correction_is_what_an_unsigned_low_nibble_loses() -> None:
    rng = np.random.default_rng(0)
    x, w, scale = rng.integers(-128, 128, (5, 16)), rng.integers(-8, 8, (3, 16)), rng.uniform(0.1, 1, 3)
    high, low = x // 16, x % 16 - 8
    lost = (x @ w.T - (16 * high @ w.T + low @ w.T)) * scale
    correction = int4.unsigned_correction(w.astype(np.int8), scale.astype(np.float32))
    np.testing.assert_allclose(lost, np.broadcast_to(correction, lost.shape), rtol=1e-6)
