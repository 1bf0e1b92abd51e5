"""e4m3 and E8M0 against their definitions, block scaling against a loop over blocks."""

import math

import numpy as np
import pytest
import torch

from porting_kernels import fp8
from porting_kernels.errors import DtypeError, ShapeError

BYTES = torch.arange(256, dtype=torch.uint8)


def e4m3_by_definition(byte: int) -> float:
    sign, exponent, mantissa = (-1.0 if byte & 0x80 else 1.0), (byte >> 3) & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    return sign * (math.ldexp(8 + mantissa, exponent - 10) if exponent else math.ldexp(mantissa, -9))


def test_every_e4m3_code_is_its_definition():
    expected = np.array([e4m3_by_definition(byte) for byte in range(256)], dtype=np.float32)
    for codes in (BYTES, BYTES.view(torch.float8_e4m3fn)):
        found = fp8.decode_e4m3(codes).numpy()
        np.testing.assert_array_equal(found, expected)
        finite = ~np.isnan(expected)  # -0.0 is not 0.0
        np.testing.assert_array_equal(np.signbit(found)[finite], np.signbit(expected)[finite])


def test_nan_of_every_type_of_code():
    assert fp8.is_nan(BYTES.view(torch.float8_e4m3fn)).nonzero().view(-1).tolist() == [0x7F, 0xFF]
    e5m2 = BYTES.view(torch.float8_e5m2)
    assert torch.equal(fp8.is_nan(e5m2), e5m2.to(torch.float32).isnan())
    assert not fp8.is_nan(BYTES.view(torch.int8)).any()


def test_every_e8m0_code_is_a_power_of_two_and_255_is_nan():
    expected = [math.ldexp(1.0, byte - 127) for byte in range(255)]
    for codes in (BYTES, BYTES.view(torch.float8_e8m0fnu)):
        found = fp8.decode_e8m0(codes)
        assert found.dtype == torch.float32
        assert found[:255].tolist() == expected
        assert math.isnan(found[255])


def test_decoding_copies():
    codes = torch.zeros(2, 2, dtype=torch.float8_e4m3fn)
    fp8.decode_e4m3(codes)[0, 0] = 1
    assert fp8.decode_e4m3(codes)[0, 0] == 0


@pytest.mark.parametrize("scale_dtype", fp8.SCALE_DTYPES)
@pytest.mark.parametrize("code_dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
@pytest.mark.parametrize("block", [(128, 128), (7, 5), (1, 300), (300, 1)])
def test_blocks_are_multiplied_by_their_scale(scale_dtype, code_dtype, block):
    rows, columns = 200, 300
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(rows, columns, generator=g).mul(30).to(code_dtype)
    scales = torch.rand(fp8.scale_shape(rows, columns, block), generator=g).add(0.1).to(scale_dtype)
    expected = codes.to(torch.float64)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = (slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1]))
            expected[part] *= scales[i, j].to(torch.float64)
    # Exact in float64 (at most 8 + 24 bits), so this rounds once.
    found = fp8.dequantize_blocks(codes, scales, block=block)
    assert torch.equal(found, expected.to(torch.float32))
    part = fp8.dequantize_blocks(codes[33:150, 17:290], scales, block=block, first_row=33, first_column=17)
    assert torch.equal(part, found[33:150, 17:290])


def test_products_below_the_normal_range_are_kept():
    codes = torch.tensor([[2.0**-9, -(2.0**-8)]]).to(torch.float8_e4m3fn)
    found = fp8.dequantize_blocks(codes, torch.tensor([[2.0**-130]]))
    assert found.tolist() == [[2.0**-139, -(2.0**-138)]]


def test_no_rows():
    assert fp8.dequantize_blocks(torch.empty(0, 5, dtype=torch.int8), torch.empty(0, 1)).shape == (0, 5)


def test_codes_past_the_last_scale_are_refused():
    codes = torch.zeros(2, 128, dtype=torch.float8_e4m3fn)
    fp8.dequantize_blocks(codes, torch.ones(1, 1), first_row=126)
    with pytest.raises(ShapeError, match=r"at least \(2, 1\)"):
        fp8.dequantize_blocks(codes, torch.ones(1, 1), first_row=127)
    with pytest.raises(ShapeError, match=r"at least \(1, 2\)"):
        fp8.dequantize_blocks(codes, torch.ones(1, 1), first_column=1)
    with pytest.raises(ShapeError, match="two axes"):
        fp8.dequantize_blocks(codes, torch.ones(1, 1), first_row=-1)


def test_other_dtypes_are_refused():
    codes = torch.zeros(1, 1, dtype=torch.float8_e4m3fn)
    with pytest.raises(DtypeError, match="float64"):
        fp8.dequantize_blocks(codes, torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(DtypeError, match="float32"):
        fp8.dequantize_blocks(torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(DtypeError, match="int8"):
        fp8.decode_e4m3(torch.zeros(1, dtype=torch.int8))
    with pytest.raises(DtypeError, match="float8_e4m3fn"):
        fp8.decode_e8m0(codes)
