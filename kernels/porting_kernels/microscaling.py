"""Floats of 8 or 4 bits with a power of two for each 32 of a row (MXFP8 in e4m3, MXFP4 in e2m1).

Source: OCP Microscaling Formats 1.0, sections 5 and 6.
"""

from __future__ import annotations

import itertools

import torch

from porting_kernels.errors import DtypeError, PortingError, ShapeError
from porting_kernels.weight_quantization import Findings

GROUP = 32
BIAS = 127
NAN = 255
"""The byte of a scale that is none."""
GREATEST = {8: 448.0, 4: 6.0}
"""Bits of an element -> its greatest value."""
_EXPONENT = {8: 8, 4: 2}
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of e2m1 by code; bit 3 is the sign."""


DTYPES = {8: torch.float8_e4m3fn, 4: torch.uint8}
"""Bits of an element -> the type of its codes."""


def check(values: torch.Tensor, bits: int) -> None:
    """Raise PortingError, DtypeError or ShapeError unless ``quantize`` takes these."""
    if bits not in GREATEST:
        raise PortingError("no such microscaling format", required="8 or 4 bits", met=bits)
    if values.dtype != torch.float32:
        raise DtypeError("weights are quantized from float32", required=torch.float32, met=values.dtype)
    if values.ndim != 2 or values.shape[1] % GROUP:
        raise ShapeError("groups do not divide the columns", required=f"a multiple of {GROUP}", met=list(values.shape))


def quantize(values: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, Findings]:
    """float32 (R, K) -> codes (R, K), exponents uint8 (R, K / 32) of value 2**(byte - 127), and what was met.

    codes: float8_e4m3fn for 8 bits; for 4 bits uint8 of 0 to 15, one an element. The scale is 2**(floor(log2(absmax)) -
    the greatest exponent of an element), from 2**-126 on: magnitudes past the greatest value saturate. Elements are
    rounded half to even, after an exact division. A group with NaN or infinity has the byte 255 and codes 0.
    Raises ShapeError when 32 does not divide K, DtypeError unless w is float32, PortingError for other bits.
    """
    check(values, bits)
    rows, columns = values.shape
    groups = values.reshape(rows, columns // GROUP, GROUP)
    absmax = groups.abs().amax(2)
    finite = torch.isfinite(absmax)
    _, exponent = torch.frexp(torch.where(finite, absmax, 0.0))
    byte = exponent - 1 - _EXPONENT[bits] + BIAS
    known = torch.where(finite & (absmax > 0), byte.clamp(1, NAN - 1), torch.where(finite, 1, NAN))
    scale = torch.ldexp(torch.ones_like(absmax), torch.where(finite, known, BIAS) - BIAS)
    scaled = torch.where(finite[:, :, None], groups / scale[:, :, None], 0.0)
    limit = GREATEST[bits]
    findings = Findings(
        zero=int((absmax == 0).sum()),
        not_finite=int((~finite).sum()),
        tiny=int(((absmax > 0) & (byte < 1) & finite).sum()),
        saturated=int((scaled.abs() > limit).sum()),
    )
    scaled = scaled.clamp_(-limit, limit).reshape(rows, columns)
    codes = scaled.to(torch.float8_e4m3fn) if bits == 8 else _e2m1(scaled)
    return codes, known.to(torch.uint8), findings


def _e2m1(values: torch.Tensor) -> torch.Tensor:
    """float32 within -6 and 6 -> codes 0 to 15. Halfway between two, the even code."""
    magnitude = values.abs()
    code = torch.zeros(values.shape, dtype=torch.uint8)
    for number, (low, high) in enumerate(itertools.pairwise(E2M1)):
        middle = (low + high) / 2
        code += magnitude > middle if number % 2 == 0 else magnitude >= middle
    return code | (torch.signbit(values).to(torch.uint8) << 3)


def dequantize(codes: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """What ``quantize`` gave, or rows of it -> float32 (R, K). Exact but for products below the least subnormal."""
    if codes.dtype == torch.uint8:
        table = torch.tensor([*E2M1, *(-value for value in E2M1)])
        values = table[codes.long()]
    else:
        values = codes.to(torch.float32)
    scale = exponents.view(torch.float8_e8m0fnu).to(torch.float32)
    return values * scale.repeat_interleave(GROUP, 1)
