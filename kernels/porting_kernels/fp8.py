"""8-bit floats with a scale for each block of a matrix, as checkpoints store them.

e4m3 (``torch.float8_e4m3fn``): sign, 4 exponent bits with bias 7, 3 mantissa bits; subnormals, no infinity, NaN at
0x7F and 0xFF, greatest value 448. E8M0 (``torch.float8_e8m0fnu``): an exponent alone, value 2**(byte - 127); byte 255
is NaN, no sign, no zero. Source: OCP 8-bit floating point 1.0, OCP microscaling formats 1.0.
"""

from __future__ import annotations

import torch

from porting_kernels.errors import DtypeError, ShapeError

BLOCK = (128, 128)
"""Rows and columns that share a scale, unless a checkpoint says otherwise."""

SCALE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu)


def decode_e4m3(codes: torch.Tensor) -> torch.Tensor:
    """float8_e4m3fn, or its bytes as uint8 -> float32, same shape. Exact."""
    if codes.dtype not in (torch.uint8, torch.float8_e4m3fn):
        raise DtypeError("not e4m3 codes", required="float8_e4m3fn or uint8", met=codes.dtype)
    # A look-up by numpy is four times as fast as torch's conversion.
    return torch.from_numpy(_E4M3[codes.view(torch.uint8).numpy()])


_E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).to(torch.float32).numpy()


def decode_e8m0(codes: torch.Tensor) -> torch.Tensor:
    """float8_e8m0fnu, or its bytes as uint8 -> float32, same shape. Exact: byte 0 is the subnormal 2**-127."""
    if codes.dtype not in (torch.uint8, torch.float8_e8m0fnu):
        raise DtypeError("not E8M0 codes", required="float8_e8m0fnu or uint8", met=codes.dtype)
    return codes.view(torch.float8_e8m0fnu).to(torch.float32)


def is_nan(codes: torch.Tensor) -> torch.Tensor:
    """float8 or int8 -> bool, same shape. An int8 is never NaN; of the float8 types e5m2 has infinities as well."""
    magnitude = codes.view(torch.uint8) & 0x7F
    if codes.dtype == torch.float8_e4m3fn:
        return magnitude == 0x7F
    return magnitude > 0x7C if codes.dtype == torch.float8_e5m2 else torch.zeros_like(magnitude, dtype=torch.bool)


def decode_scales(scales: torch.Tensor) -> torch.Tensor:
    """Scales of any dtype in ``SCALE_DTYPES`` -> float32, same shape. Exact. DtypeError for another dtype."""
    if scales.dtype not in SCALE_DTYPES:
        raise DtypeError(
            "scales of this dtype are not known", required=" or ".join(map(str, SCALE_DTYPES)), met=scales.dtype
        )
    return scales.to(torch.float32)


def scale_shape(rows: int, columns: int, block: tuple[int, int] = BLOCK) -> tuple[int, int]:
    """Shape of the scales of a matrix: the blocks at its lower and right edges may be cut off."""
    return -(-rows // block[0]), -(-columns // block[1])


def dequantize_blocks(
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    block: tuple[int, int] = BLOCK,
    first_row: int = 0,
    first_column: int = 0,
) -> torch.Tensor:
    """Rows and columns of a block-scaled matrix, as float32.

    codes: [r, c], float8 or int8: the part of the matrix that begins at row ``first_row`` and column ``first_column``.
    scales: [R, C] of the whole matrix, multipliers, any dtype in ``SCALE_DTYPES``; all that must be there is a scale
    for each code. Returns float32 [r, c]: value(codes[i, j]) * scales[(first_row + i) // block[0],
    (first_column + j) // block[1]].
    Rounding: codes and scales are exact in float32, so the product rounds once, half to even; subnormals are kept, a
    NaN code gives NaN. Raises ShapeError for codes outside the scales.
    Source: deepseek-ai/DeepSeek-V3:README_WEIGHTS.md (``scale_inv`` multiplies).
    """
    check_blocks(codes, scales, block, first_row, first_column)
    if codes.numel() == 0:
        return torch.empty(codes.shape, dtype=torch.float32)
    rows = torch.arange(first_row, first_row + codes.shape[0]) // block[0]
    columns = torch.arange(first_column, first_column + codes.shape[1]) // block[1]
    used = decode_scales(scales)[first_row // block[0] : (first_row + codes.shape[0] - 1) // block[0] + 1]
    values = decode_e4m3(codes) if codes.dtype == torch.float8_e4m3fn else codes.to(torch.float32)
    return values.mul_(used[:, columns][rows - first_row // block[0]])


def check_blocks(
    codes: torch.Tensor, scales: torch.Tensor, block: tuple[int, int], first_row: int, first_column: int
) -> None:
    """Raise ShapeError unless each code has a scale, DtypeError for codes or scales of an unknown dtype."""
    if codes.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8):
        raise DtypeError("codes of this dtype are not known", required="float8 or int8", met=codes.dtype)
    if scales.dtype not in SCALE_DTYPES:
        decode_scales(scales)
    if codes.ndim != 2 or scales.ndim != 2 or min(block) < 1 or first_row < 0 or first_column < 0:
        raise ShapeError(
            "block scaling is of matrices",
            required="two axes, blocks of at least 1 x 1, a first row and column of at least 0",
            met=f"codes {list(codes.shape)}, scales {list(scales.shape)}, {block=}, {first_row=}, {first_column=}",
        )
    needed = scale_shape(first_row + codes.shape[0], first_column + codes.shape[1], block)
    if codes.numel() and (scales.shape[0] < needed[0] or scales.shape[1] < needed[1]):
        raise ShapeError("codes without a scale", required=f"at least {needed} scales", met=tuple(scales.shape))
