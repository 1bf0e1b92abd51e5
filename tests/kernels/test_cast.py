from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from porting_kernels import dtypes, registry
from porting_kernels.cast import cast, cast_to
from porting_kernels.errors import DtypeError, PortingError
from porting_kernels.numerics import REF64

NUMERIC = [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 16]
FLOAT8 = {
    17: ml_dtypes.float8_e4m3fn,
    18: ml_dtypes.float8_e4m3fnuz,
    19: ml_dtypes.float8_e5m2,
    20: ml_dtypes.float8_e5m2fnuz,
}


@pytest.mark.parametrize("to", NUMERIC)
@pytest.mark.parametrize("source", NUMERIC)
def test_values_that_fit_are_kept(source, to, ours):
    x = np.array([0, 1, 2, 100], dtypes.by_code(source).numpy)
    found = ours("Cast", x, to=to)[0]
    assert found.dtype == dtypes.by_code(to).numpy
    np.testing.assert_array_equal(found.astype(np.float64), [0, 1, 2, 100])


def test_integers_lose_upper_bits(ours):
    x = np.array([200, -1, 70000], np.int32)
    np.testing.assert_array_equal(ours("Cast", x, to=3)[0], np.array([-56, -1, 112], np.int8))
    np.testing.assert_array_equal(ours("Cast", x, to=4)[0], np.array([200, 65535, 4464], np.uint16))


def test_floats_truncate_to_integers_and_overflow_to_infinity(ours):
    x = np.array([-1.9, 1.9, 70000, -0.4], np.float32)
    np.testing.assert_array_equal(ours("Cast", x, to=7)[0], [-1, 1, 70000, 0])
    assert np.isinf(ours("Cast", x, to=10)[0][2])


def test_nan_is_true_and_zero_is_false(ours):
    found = ours("Cast", np.array([math.nan, 0, -0.0, 1e-30], np.float32), to=9)[0]
    np.testing.assert_array_equal(found, [True, False, False, True])


@pytest.mark.parametrize("code", FLOAT8)
def test_float8_rounds_every_float16_as_ml_dtypes(code):
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    x = x[np.isfinite(x)].astype(np.float32)
    limit = float(ml_dtypes.finfo(FLOAT8[code]).max)
    saturated = dtypes.to_numpy(cast_to(torch.from_numpy(x), dtypes.by_code(code)))
    np.testing.assert_array_equal(
        saturated.astype(np.float32), np.clip(x, -limit, limit).astype(FLOAT8[code]).astype(np.float32)
    )
    free = dtypes.to_numpy(cast_to(torch.from_numpy(x), dtypes.by_code(code), saturate=False))
    np.testing.assert_array_equal(free.astype(np.float32), x.astype(FLOAT8[code]).astype(np.float32))


@pytest.mark.parametrize("code", FLOAT8)
def test_float8_infinities(code):
    x = torch.tensor([math.inf, -math.inf, math.nan])
    limit = float(ml_dtypes.finfo(FLOAT8[code]).max)
    saturated = cast_to(x, dtypes.by_code(code)).float()
    np.testing.assert_array_equal(saturated.numpy(), [limit, -limit, math.nan])
    free = cast_to(x, dtypes.by_code(code), saturate=False).float()
    expected = [math.inf, -math.inf, math.nan] if code == 19 else [math.nan] * 3
    np.testing.assert_array_equal(free.numpy(), expected)


def test_float4_takes_ties_to_even_and_saturates():
    x = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7, -5.1, -100])
    found = cast_to(x, dtypes.by_code(23)).float()
    assert found.tolist() == [0, 0, 1, 1, 2, 2, 4, 4, 6, -6, -6]


def test_small_integers_keep_their_lower_bits():
    x = torch.tensor([0, 7, 8, 15, 16, -1, -9])
    assert cast_to(x, dtypes.by_code(22)).tolist() == [0, 7, -8, -1, 0, -1, 7]
    assert cast_to(x, dtypes.by_code(21)).tolist() == [0, 7, 8, 15, 0, 15, 7]
    assert cast_to(x, dtypes.by_code(26)).tolist() == [0, -1, 0, -1, 0, -1, -1]


@pytest.mark.parametrize("mode, expected", [("up", [1, 2, 4, 4]), ("down", [1, 1, 2, 2]), ("nearest", [1, 2, 2, 4])])
def test_e8m0_rounds_to_powers_of_two(mode, expected):
    x = torch.tensor([1, 1.5, 2.1, 3.5])
    assert cast_to(x, dtypes.by_code(24), round_mode=mode).float().tolist() == expected


def test_e8m0_refuses_an_unknown_mode():
    with pytest.raises(PortingError, match="round_mode"):
        cast_to(torch.ones(1), dtypes.by_code(24), round_mode="sideways")


def test_cast_like_follows_the_other_operand(ours):
    found = ours("CastLike", np.array([1.9], np.float32), np.zeros(3, np.int16))[0]
    assert found.dtype == np.int16
    assert found.tolist() == [1]


def test_bits_are_kept(ours):
    x = np.array([1.0, -0.0], np.float32)
    np.testing.assert_array_equal(ours("BitCast", x, opset=26, to=6)[0], x.view(np.int32))
    with pytest.raises(DtypeError, match="same width"):
        ours("BitCast", x, opset=26, to=7)


def test_float64_mode_casts_to_float64():
    context = registry.Context(22, numerics=REF64)
    assert cast(torch.tensor([1 / 3], dtype=torch.float64), to=10, context=context).dtype == torch.float64
    assert cast(torch.tensor([1.5], dtype=torch.float64), to=7, context=context).dtype == torch.int64
