"""Codes of 8 bits with a float32 scale for each block of a matrix: the torch form of the native loops."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from porting_kernels import fp8
from porting_kernels.errors import DtypeError, PortingError, ShapeError
from porting_kernels.weight_quantization import LEAST_SCALE, Findings

Kind = Literal["float8_e4m3fn", "int8"]
LIMITS: dict[Kind, float] = {"float8_e4m3fn": 448.0, "int8": 127.0}
"""The code of the greatest magnitude of a block."""
DTYPES: dict[Kind, torch.dtype] = {"float8_e4m3fn": torch.float8_e4m3fn, "int8": torch.int8}


def check(w: torch.Tensor, kind: str, block: tuple[int, int]) -> None:
    """Raise DtypeError, ShapeError or PortingError unless ``quantize_blocks`` takes these."""
    if w.dtype != torch.float32:
        raise DtypeError("weights are quantized from float32", required=torch.float32, met=w.dtype)
    if w.ndim != 2 or min(block) < 1:
        raise ShapeError(
            "blocks are of a matrix", required="two axes, blocks of at least 1 x 1", met=f"{list(w.shape)}, {block=}"
        )
    if kind not in get_args(Kind):
        raise PortingError("no such codes of blocks", required=" or ".join(get_args(Kind)), met=kind)


def quantize_blocks(
    w: torch.Tensor, kind: Kind, block: tuple[int, int] = fp8.BLOCK
) -> tuple[torch.Tensor, torch.Tensor, Findings]:
    """Codes (R, K), scales float32 (R / height, K / width, rounded up), and what was met; w: float32 (R, K).

    scale = max(max|w| / limit, LEAST_SCALE) over the block; a code is w / scale, brought back to the limits and rounded
    half to even. A block with NaN or infinity: scale NaN, codes 0. Blocks at the edges may be cut off.
    Raises DtypeError unless w is float32, ShapeError unless it is a matrix.
    """
    check(w, kind, block)
    rows, columns = w.shape
    height, width = block
    padded = torch.nn.functional.pad(w, (0, -columns % width, 0, -rows % height))
    blocks = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width)
    absmax = blocks.abs().amax((1, 3))
    finite = torch.isfinite(absmax)
    limit = LIMITS[kind]
    exact = torch.where(finite, absmax, 0.0) / limit
    scale = exact.clamp_min(LEAST_SCALE)
    quotient = torch.where(finite[:, None, :, None], blocks / scale[:, None, :, None], 0.0)
    if kind == "float8_e4m3fn":
        codes = quotient.clamp_(-limit, limit).to(torch.float8_e4m3fn)
    else:
        codes = quotient.round_().clamp_(-limit, limit).to(torch.int8)
    whole = codes.view(torch.int8).reshape(padded.shape)[:rows, :columns].contiguous().view(codes.dtype)
    findings = Findings(
        zero=int((absmax == 0).sum()),
        not_finite=int((~finite).sum()),
        tiny=int(((absmax > 0) & (exact < LEAST_SCALE) & finite).sum()),
    )
    return whole, torch.where(finite, scale, torch.nan), findings
