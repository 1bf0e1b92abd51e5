import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels import fp19


def word_by_hand(scale: float, offset: int) -> int:
    (bits,) = struct.unpack("<I", struct.pack("<f", scale))
    return (bits & 0xFFFFE000) | ((offset & 0x1FF) << 37) | (1 << 46)


def test_known_words():
    # 1.0 is 0x3F800000; 0.1 is 0x3DCCCCCD, whose low 13 bits are 0x0CCD.
    words = fp19.pack(np.array([1.0, 0.1, -2.0], np.float32))
    assert [hex(int(w)) for w in words] == ["0x40003f800000", "0x40003dccc000", "0x4000c0000000"]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-256, 255))
def test_pack_equals_the_bit_formula_and_unpack_inverts_it(scale, offset):
    word = fp19.pack(np.array([scale], np.float32), offset)
    assert int(word[0]) == word_by_hand(scale, offset)
    unpacked, offsets = fp19.unpack(word)
    assert unpacked.tobytes() == fp19.truncate(torch.tensor([scale])).numpy().tobytes()
    assert offsets.tolist() == [offset]
    assert np.array_equal(fp19.pack(unpacked, offsets), word)


@given(st.floats(2**-100, 2**100, width=32))
def test_truncation_loses_less_than_one_in_1024(scale):
    cut = fp19.truncate(torch.tensor([scale])).item()
    assert scale * (1 - 2**-10) < cut <= scale


def test_offset_is_rounded_half_even_and_clamped():
    words = fp19.pack(np.ones(4, np.float32), np.array([2.5, 3.5, 1000.0, -1000.0]))
    assert fp19.unpack(words)[1].tolist() == [2, 4, 255, -256]


def test_truncation_keeps_nan_and_infinity():
    cut = fp19.truncate(torch.tensor([float("nan"), float("inf")]))
    assert torch.isnan(cut[0])
    assert cut[1] == float("inf")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scales_that_no_word_holds_are_refused(bad):
    with pytest.raises(fp19.ScaleWordError, match="finite"):
        fp19.pack(np.array([1.0, bad], np.float32))


@pytest.mark.parametrize("word", [0x3F800000, (1 << 46) | 1, (1 << 46) | (1 << 50)])
def test_other_words_are_refused(word):
    with pytest.raises(fp19.ScaleWordError, match="bit 46"):
        fp19.unpack(np.array([word], np.uint64))
