"""int4 codes as bytes and words, and the correction that an unsigned half of an activation asks for.

Sources: hicann/ops-transformer and vllm-project/vllm-ascend:vllm_ascend/quantization/methods/w4a8.py (pairs along the
output channels, the bias); Ascend/op-plugin:op_plugin/ops/opapi/ConvertWeightToINT4PackKernelNpuOpApi.cpp (words).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from porting_kernels.errors import ShapeError

Array = np.ndarray[Any, Any]


def pack_pairs(codes: Array, axis: int) -> Array:
    """int8 codes in -8..7 -> int8 bytes, two neighbours along ``axis`` each, the even one in the low nibble.

    Raises ShapeError for an odd extent.
    """
    if codes.shape[axis] % 2:
        raise ShapeError("codes do not go into bytes of two", required=f"axis {axis} even", met=codes.shape)
    pairs = np.moveaxis(codes, axis, 0)
    packed = (pairs[0::2] & 0x0F) | (pairs[1::2] << 4)
    return np.ascontiguousarray(np.moveaxis(packed.astype(np.int8), 0, axis))


def unpack_pairs(packed: Array, axis: int) -> Array:
    """int8 bytes -> int8 codes in -8..7, twice as many along ``axis``."""
    low = (packed & 0x0F).astype(np.int8)
    pairs = np.stack([(low ^ 8) - 8, packed >> 4], axis=axis + 1 if axis >= 0 else packed.ndim + axis + 1)
    shape = list(packed.shape)
    shape[axis] *= 2
    return pairs.reshape(shape).astype(np.int8)


def unsigned_correction(codes: Array, scale: Array) -> Array:
    """8 * sum(code * scale) over the last axis: codes int8 (..., N, K), scale float32 (..., N) -> float32 (..., N).

    An int8 activation x is 16 h + l with a signed h and an unsigned l; a kernel that takes l - 8 for a signed nibble
    loses 8 times the sum of the weights.
    """
    sums = codes.sum(axis=-1, dtype=np.int64).astype(np.float32)
    return np.asarray(8 * (sums * scale.astype(np.float32)), dtype=np.float32)
