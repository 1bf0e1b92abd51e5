"""Each native loop against the torch form that defines it, bit for bit. Without the module both sides are torch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting_kernels import (
    block_quantization,
    dyadic_histogram,
    fp8,
    microscaling,
    native,
    weight_quantization,
)
from porting_kernels.errors import ShapeError
from porting_kernels.rounding import saturate_int8

MODES = ["half_even", "half_away", "half_up"]
ANY = st.lists(st.floats(width=32), min_size=1, max_size=70)


@given(ANY, st.floats(-1e10, 1e10, width=32), st.integers(-128, 127), st.sampled_from(MODES))
def test_quantize_on_any_float(values, scale, offset, mode):
    x = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(native.quantize_int8(x, scale, offset, mode), saturate_int8(x * scale + offset, mode))


@pytest.mark.parametrize("mode", MODES)
def test_quantize_on_every_tie_and_its_neighbours(mode):
    ties = torch.arange(-300, 301) / 2
    x = torch.cat([ties, torch.nextafter(ties, ties + 1), torch.nextafter(ties, ties - 1)])
    assert torch.equal(native.quantize_int8(x, 1.0, 0, mode), saturate_int8(x, mode))


@pytest.mark.parametrize("shape", [(1,), (4095,), (4097,), (3, 5000), (0,)])
@pytest.mark.parametrize("spread", [0, 3, 30])
def test_histogram_with_ranges_that_grow_on_the_way(shape, spread):
    rng = np.random.default_rng(5)
    x = (rng.standard_normal(shape) * np.exp2(rng.integers(-spread, spread + 1, shape))).astype(np.float32)
    x[rng.random(shape) < 0.2] = 0
    found, expected = native.histogram(torch.from_numpy(x)), dyadic_histogram.reference(torch.from_numpy(x))
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.exponent, found.zeros, found.low, found.high) == (
        expected.exponent,
        expected.zeros,
        expected.low,
        expected.high,
    )


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_histogram_on_any_finite_float(values):
    x = torch.tensor(values, dtype=torch.float32)
    found, expected = native.histogram(x), dyadic_histogram.reference(x)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.exponent, found.zeros, found.low, found.high) == (
        expected.exponent,
        expected.zeros,
        expected.low,
        expected.high,
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_histogram_names_the_first_non_finite_value(bad):
    x = torch.zeros(3, 3000)
    x[2, 17] = bad
    x[2, 18] = float("nan")
    with pytest.raises(dyadic_histogram.NonFiniteError) as caught:
        native.histogram(x)
    assert caught.value.index == (2, 17)


RESULTS = [torch.float32, torch.bfloat16, torch.float16]


def assert_dequantized(codes, scales, out, **options):
    nan = native.dequantize_blocks(codes, scales, out, **options)
    expected = fp8.dequantize_blocks(codes, scales, **options).to(out.dtype)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(out.signbit()[~out.isnan()], expected.signbit()[~out.isnan()])
    assert nan == int(codes.to(torch.float32).isnan().sum())


@pytest.mark.parametrize("dtype", RESULTS)
@pytest.mark.parametrize(
    "scale", [1.0, 1.3228756, 3e-5, 2.0**-127, 2.0**-135, 1e38, -0.7, 0.0, float("inf"), float("nan")]
)
def test_dequantize_every_code(dtype, scale):
    codes = torch.arange(256, dtype=torch.uint8).view(1, 256).view(torch.float8_e4m3fn)
    assert_dequantized(codes, torch.full((1, 2), scale), torch.empty(1, 256, dtype=dtype))


@pytest.mark.parametrize("dtype", RESULTS)
@given(
    rows=st.integers(0, 40),
    columns=st.integers(0, 70),
    block=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    first=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    scale_dtype=st.sampled_from(fp8.SCALE_DTYPES),
    seed=st.integers(0, 2**31),
)
def test_dequantize_any_part_of_a_ragged_matrix(dtype, rows, columns, block, first, scale_dtype, seed):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (rows, columns), generator=g, dtype=torch.uint8).view(torch.float8_e4m3fn)
    shape = fp8.scale_shape(first[0] + rows, first[1] + columns, block)
    scales = torch.randn(shape, generator=g).exp2().to(scale_dtype)
    out = torch.empty(rows, columns, dtype=dtype)
    assert_dequantized(codes, scales, out, block=block, first_row=first[0], first_column=first[1])


@pytest.mark.parametrize("dtype", RESULTS)
def test_dequantize_between_strided_matrices(dtype):
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (30, 99), generator=g, dtype=torch.uint8).view(torch.float8_e4m3fn)
    scales = torch.rand(3, 9, generator=g)
    whole = torch.zeros(120, 120, dtype=dtype)
    for part in (codes, codes[::2], codes[:, 3:80], codes[:, ::3], codes[:25, :30].T):
        for out in (whole[: part.shape[0], 5 : 5 + part.shape[1]], whole.T[: part.shape[0], : part.shape[1]]):
            whole.zero_()
            assert_dequantized(part, scales, out, block=(16, 16))
            outside = whole.count_nonzero() - out.count_nonzero()
            assert outside == 0


@pytest.mark.parametrize("out", [torch.empty(700, 500, dtype=torch.float16), torch.empty(500, 700).T])
def test_dequantize_more_than_the_scratch_rows_hold(out):
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, out.shape, generator=g, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert_dequantized(codes, torch.rand(9, 6, generator=g), out, block=(100, 100), first_row=150, first_column=70)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.int8])
def test_dequantize_codes_without_a_loop(dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(2, 128).view(dtype)
    assert_dequantized(codes, torch.tensor([[0.3]]), torch.empty(2, 128))


def test_dequantize_into_another_shape_is_refused():
    with pytest.raises(ShapeError):
        native.dequantize_blocks(torch.zeros(2, 2, dtype=torch.int8), torch.ones(1, 1), torch.empty(2, 3))


def test_the_switch_turns_the_module_off():
    code = (
        "import torch; from porting_kernels import native;"
        "codes = native.quantize_int8(torch.ones(2), 2.0, 1, 'half_even');"
        "print(native.available, native.instruction_set(), codes.tolist())"
    )
    environment = {**os.environ, native.SWITCH: "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False None [3, 3]"


def assert_rows_quantized(w, **options):
    codes, scales, findings = native.quantize_rows(w, **options)
    expected = weight_quantization.quantize_rows(w, **options)
    assert torch.equal(codes, expected[0])
    assert torch.equal(scales.view(torch.int32), expected[1].view(torch.int32))
    assert findings == expected[2]


SPECIAL = [0.0, -0.0, float("nan"), float("inf"), 1e-45, -1e-39, 2.0**-126, 3e38, -3.4028234e38, 1.0]


@given(
    rows=st.integers(0, 5),
    groups=st.integers(1, 4),
    size=st.integers(0, 150),
    bits=st.sampled_from([8, 4]),
    search=st.sampled_from(["absmax", "mse"]),
    whole=st.booleans(),
    exponent=st.integers(-140, 120),
    special=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(SPECIAL)), max_size=4),
    seed=st.integers(0, 2**31),
)
def test_quantize_rows_of_any_kind(rows, groups, size, bits, search, whole, exponent, special, seed):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, groups * size, generator=g).double().mul(2.0**exponent).float()
    for place, value in special if w.numel() else ():
        w.view(-1)[place % w.numel()] = value
    divisor = weight_quantization.LIMITS[bits] + 0.5 if whole else None
    group = size if groups > 1 and size else None
    assert_rows_quantized(w, bits=bits, group=group, search=search, divisor=divisor)


@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.sampled_from([8, 4]))
def test_quantize_rows_of_any_float(values, bits):
    for search in ("absmax", "mse"):
        assert_rows_quantized(torch.tensor([values], dtype=torch.float32), bits=bits, search=search)


def test_quantize_rows_between_strided_matrices():
    whole = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    for part in (whole[::2], whole[:, 8:40], whole[:, ::2], whole.T):
        assert_rows_quantized(part, bits=8)
    codes = torch.zeros(60, 64, dtype=torch.int8)
    found, _, _ = native.quantize_rows(whole, bits=8, codes=codes[10:40])
    assert found.data_ptr() == codes[10:40].data_ptr()
    assert torch.equal(codes[10:40], weight_quantization.quantize_rows(whole, bits=8)[0])
    assert codes[:10].count_nonzero() == codes[40:].count_nonzero() == 0


@given(
    rows=st.integers(0, 5),
    groups=st.integers(1, 4),
    size=st.integers(0, 150),
    bits=st.sampled_from([8, 4]),
    search=st.sampled_from(["absmax", "mse"]),
    whole=st.booleans(),
    block=st.tuples(st.integers(1, 4), st.integers(1, 130)),
    first_row=st.integers(0, 9),
    exponent=st.integers(-140, 125),
    nan=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_requantize_rows_of_any_kind(rows, groups, size, bits, search, whole, block, first_row, exponent, nan, seed):
    """Against the two torch forms one after the other, where blocks begin and end anywhere in groups."""
    g = torch.Generator().manual_seed(seed)
    stored = torch.randint(0, 256, (rows, groups * size), generator=g, dtype=torch.uint8)
    if not nan:
        stored[(stored & 0x7F) == 0x7F] = 0x25
    stored = stored.view(torch.float8_e4m3fn)
    scales = torch.randn(fp8.scale_shape(first_row + rows, groups * size, block), generator=g).double()
    scales = scales.mul(2.0**exponent).float()
    divisor = weight_quantization.LIMITS[bits] + 0.5 if whole else None
    options = {"bits": bits, "group": size if groups > 1 and size else None, "search": search, "divisor": divisor}
    codes, found, findings, count = native.requantize_blocks(
        stored, scales, block=block, first_row=first_row, **options
    )
    w = fp8.dequantize_blocks(stored, scales, block=block, first_row=first_row)
    expected = weight_quantization.quantize_rows(w, **options)
    assert torch.equal(codes, expected[0])
    assert torch.equal(found.view(torch.int32), expected[1].view(torch.int32))
    assert findings == expected[2]
    assert count == int(fp8.is_nan(stored).sum())


def test_requantize_rows_between_strided_matrices():
    g = torch.Generator().manual_seed(0)
    stored = torch.randn(30, 64, generator=g).to(torch.float8_e4m3fn)
    scales = torch.rand(8, 4, generator=g)
    codes = torch.zeros(60, 64, dtype=torch.int8)
    found, _, _, _ = native.requantize_blocks(stored, scales, bits=8, block=(4, 16), codes=codes[10:40])
    assert found.data_ptr() == codes[10:40].data_ptr()
    for part in (stored[::2], stored[:, 8:40], stored[:, ::2], stored.T[:30]):
        whole = native.requantize_blocks(part, scales, bits=8, block=(4, 16))
        w = fp8.dequantize_blocks(part, scales, block=(4, 16))
        assert torch.equal(whole[0], weight_quantization.quantize_rows(w, bits=8)[0])
    assert codes[:10].count_nonzero() == codes[40:].count_nonzero() == 0


def test_requantize_codes_without_a_scale_is_refused():
    with pytest.raises(ShapeError, match="without a scale"):
        native.requantize_blocks(torch.zeros(3, 4).to(torch.float8_e4m3fn), torch.ones(1, 1), bits=8, block=(2, 4))


def floats_of_any_kind(shape, exponent, special, seed):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=g).double().mul(2.0**exponent).float()
    for place, value in special if w.numel() else ():
        w.view(-1)[place % w.numel()] = value
    return w


def assert_codes_and_scales(found, expected):
    assert found[0].dtype == expected[0].dtype
    for mine, other in zip(found[:2], expected[:2], strict=True):
        assert mine.shape == other.shape
        bits = [each.contiguous().view(-1).view(torch.uint8) for each in (mine, other) if each.numel()]
        assert not bits or torch.equal(*bits)
    assert found[2] == expected[2]


@given(
    rows=st.integers(0, 5),
    groups=st.integers(0, 4),
    bits=st.sampled_from([8, 4]),
    exponent=st.integers(-150, 126),
    special=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(SPECIAL)), max_size=4),
    seed=st.integers(0, 2**31),
)
def test_microscale_of_any_kind(rows, groups, bits, exponent, special, seed):
    w = floats_of_any_kind((rows, 32 * groups), exponent, special, seed)
    assert_codes_and_scales(native.microscale(w, bits), microscaling.quantize(w, bits))


@pytest.mark.parametrize("bits", [8, 4])
def test_microscale_at_every_tie_and_its_neighbours(bits):
    """Halfway between two codes, and one float32 to either side, for every code and sign."""
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float() if bits == 8 else None
    values = torch.tensor(microscaling.E2M1) if values is None else values[values.isfinite() & (values >= 0)]
    ties = (values[:-1] + values[1:]) / 2
    x = torch.cat([values, ties, torch.nextafter(ties, ties * 2), torch.nextafter(ties, ties * 0)])
    x = torch.cat([x, -x])
    rows = torch.zeros(len(x), 32)
    rows[:, 0] = microscaling.GREATEST[bits]
    rows[:, 1] = x
    assert_codes_and_scales(native.microscale(rows, bits), microscaling.quantize(rows, bits))


@given(
    rows=st.integers(0, 9),
    columns=st.integers(0, 150),
    block=st.tuples(st.integers(1, 5), st.integers(1, 70)),
    kind=st.sampled_from(["int8", "float8_e4m3fn"]),
    exponent=st.integers(-150, 126),
    special=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(SPECIAL)), max_size=4),
    seed=st.integers(0, 2**31),
)
def test_quantize_blocks_of_any_kind(rows, columns, block, kind, exponent, special, seed):
    w = floats_of_any_kind((rows, columns), exponent, special, seed)
    assert_codes_and_scales(native.quantize_blocks(w, kind, block), block_quantization.quantize_blocks(w, kind, block))


def test_small_floats_and_blocks_between_strided_matrices():
    whole = torch.randn(30, 128, generator=torch.Generator().manual_seed(0))
    for part in (whole[::2], whole[:, 8:40], whole[:, ::2], whole.T[:, :0], whole[:, 32:96].T[:, :0]):
        assert_codes_and_scales(native.microscale(part, 8), microscaling.quantize(part, 8))
        found = native.quantize_blocks(part, "float8_e4m3fn", (4, 16))
        assert_codes_and_scales(found, block_quantization.quantize_blocks(part, "float8_e4m3fn", (4, 16)))
    codes = torch.zeros(60, 128, dtype=torch.uint8)
    found, _, _ = native.microscale(whole, 4, codes=codes[10:40])
    assert found.data_ptr() == codes[10:40].data_ptr()
    assert codes[:10].count_nonzero() == codes[40:].count_nonzero() == 0
