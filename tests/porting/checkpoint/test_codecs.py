"""Rows into codes and bytes, against formulas in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting.checkpoint.codecs import BlockSpec, encode, packed, rows_together
from porting.quantization.weight_spec import WeightSpec


@given(st.integers(1, 6), st.integers(1, 40), st.sampled_from([4, 8]), st.integers(0, 2**31))
def test_words_are_a_little_endian_stream_of_unsigned_codes(rows: int, columns: int, bits: int, seed: int) -> None:
    low = -(1 << (bits - 1))
    codes = np.random.default_rng(seed).integers(low, -low, (rows, columns), dtype=np.int8)
    words = packed(torch.from_numpy(codes), "words", bits).numpy()
    assert words.dtype == np.int32
    for row, line in zip(codes, words, strict=True):
        stream = sum(int(code - low) << (bits * place) for place, code in enumerate(row.astype(int)))
        assert int.from_bytes(line.tobytes(), "little") == stream


def test_blocks_of_int8_share_a_scale_and_stay_within_127() -> None:
    torch.manual_seed(0)
    values = torch.randn(200, 300)
    encoded = encode(values, BlockSpec("int8"))
    assert encoded.scale.shape == (2, 3)
    spread = encoded.scale.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    assert ((encoded.codes * spread - values).abs() <= spread * 0.5001).all()
    torch.testing.assert_close(encoded.scale[1, 2], values[128:, 256:].abs().max() / 127)


def test_blocks_of_zeros_and_of_nan_are_counted() -> None:
    values = torch.ones(256, 128)
    values[:128] = 0
    values[128, 0] = torch.nan
    encoded = encode(values, BlockSpec("float8_e4m3fn"))
    assert (encoded.findings.zero, encoded.findings.not_finite) == (1, 1)
    assert encoded.scale[0, 0] > 0
    assert torch.isnan(encoded.scale[1, 0])


def test_rows_that_cannot_be_cut() -> None:
    assert rows_together(BlockSpec("int8")) == 128
    assert rows_together(WeightSpec(4), "row_pairs") == 2
    assert rows_together(WeightSpec(8)) == 1


@pytest.mark.parametrize("spec", [WeightSpec(8), WeightSpec(4, 32, "mse"), BlockSpec("float8_e4m3fn", (16, 16))])
def test_codes_do_not_depend_on_how_rows_are_cut(spec: WeightSpec | BlockSpec) -> None:
    torch.manual_seed(0)
    values = torch.randn(64, 64)
    whole = encode(values, spec)
    parts = [encode(values[first : first + 16], spec) for first in range(0, 64, 16)]
    codes = torch.cat([part.codes.view(torch.int8) for part in parts])
    assert torch.equal(whole.codes.view(torch.int8), codes)
    assert torch.equal(whole.scale, torch.cat([part.scale for part in parts]))
