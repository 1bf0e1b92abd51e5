"""FP19 scales in 64-bit words, the parameters of a fixed-function requantization unit.

A word holds, from bit 0: the bits of the float32 scale with the low 13 mantissa bits cut off (sign, 8 exponent and 10
mantissa bits remain, hence FP19), a signed 9-bit offset at bits 37..45, and a 1 at bit 46.
Source: hicann/ops-nn:quant/trans_quant_param_v2/docs and hicann/pyasc fixpipe documentation (facts, chips-datacentre,
section 4).
"""

from __future__ import annotations

import numpy as np
import torch

from porting_kernels.errors import PortingError

SCALE_MASK = 0xFFFFE000
OFFSET_SHIFT = 37
OFFSET_BITS = 9
MARK = 1 << 46
_OFFSET_MASK = ((1 << OFFSET_BITS) - 1) << OFFSET_SHIFT
_OFFSET_LIMITS = (-(1 << (OFFSET_BITS - 1)), (1 << (OFFSET_BITS - 1)) - 1)


class ScaleWordError(PortingError):
    """A scale that no word can hold, or a word that holds no scale."""


def truncate(scale: torch.Tensor) -> torch.Tensor:
    """float32 scales cut to FP19: the magnitude shrinks by less than 2**-10 of itself. NaN stays NaN."""
    cut = (scale.contiguous().view(torch.int32) & (SCALE_MASK - (1 << 32))).view(torch.float32)
    return torch.where(torch.isnan(scale), scale, cut)


def pack(scale: np.ndarray, offset: np.ndarray | float = 0) -> np.ndarray:
    """float32 scales and offsets -> uint64 words, same shape.

    offset is rounded half to even and clamped to [-256, 255]. Raises ScaleWordError for a scale that is not finite.
    """
    scale = np.ascontiguousarray(scale, dtype=np.float32)
    if not np.isfinite(scale).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(scale))[0])
        raise ScaleWordError("a scale word cannot hold this scale", required="finite", met=scale[where], where=where)
    word: np.ndarray = (scale.view(np.uint32) & np.uint32(SCALE_MASK)).astype(np.uint64) | np.uint64(MARK)
    rounded = np.clip(np.rint(np.asarray(offset, dtype=np.float64)), *_OFFSET_LIMITS).astype(np.int64)
    field = (rounded << OFFSET_SHIFT) & _OFFSET_MASK
    word |= field.astype(np.uint64)
    return word


def unpack(word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint64 (or int64) words -> float32 scales and int64 offsets, same shape.

    Raises ScaleWordError for a word without the mark at bit 46, or with bits set outside the three fields.
    """
    word = np.ascontiguousarray(word).astype(np.uint64)
    known = np.uint64(SCALE_MASK | _OFFSET_MASK | MARK)
    bad = ((word & np.uint64(MARK)) == 0) | ((word & ~known) != 0)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ScaleWordError(
            "not a scale word",
            required="bit 46 set, no bits but 13..31, 37..45 and 46",
            met=hex(int(word[where])),
            where=where,
        )
    scale = (word & np.uint64(SCALE_MASK)).astype(np.uint32).view(np.float32)
    field = ((word & np.uint64(_OFFSET_MASK)) >> np.uint64(OFFSET_SHIFT)).astype(np.int64)
    offset = np.where(field > _OFFSET_LIMITS[1], field - (1 << OFFSET_BITS), field)
    return scale, offset
