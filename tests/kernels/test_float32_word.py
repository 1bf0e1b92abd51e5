"""float32 scales in zero-extended words."""

from __future__ import annotations

import numpy as np
import pytest

from porting_kernels import float32_word, fp19


def test_known_words() -> None:
    assert float32_word.pack(np.array([1.0, 0.5, -2.0], np.float32)).tolist() == [0x3F800000, 0x3F000000, 0xC0000000]
    assert float32_word.pack(np.float32(1.0)).shape == (1,)


def test_every_bit_survives() -> None:
    scale = np.random.default_rng(0).uniform(1e-6, 1e-2, 100).astype(np.float32)
    word = float32_word.pack(scale)
    assert word.dtype == np.uint64
    assert np.array_equal(float32_word.unpack(word).view(np.uint32), scale.view(np.uint32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scales_that_no_word_holds(bad: float) -> None:
    with pytest.raises(fp19.ScaleWordError, match="finite"):
        float32_word.pack(np.array([1.0, bad], np.float32))


def test_the_other_kind_of_word_is_refused() -> None:
    with pytest.raises(fp19.ScaleWordError, match=r"bits 32\.\.63 zero"):
        float32_word.unpack(fp19.pack(np.array([1.0], np.float32)))
