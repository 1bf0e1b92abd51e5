"""float32 scales in 64-bit words, zero-extended: the form that a compiler reads before it makes FP19 words itself.

Bits 0..31 are those of the float32 scale, bits 32..39 a signed weight offset (always 0 here), the rest 0.
Source: hicann/amct:amct_pytorch/classic/graph_based/amct_pytorch/optimizer/insert_dequant_pass.py (fuse_dequant_param);
Ascend/msmodelslim:msmodelslim/onnx/squant_ptq/quant_deploy.py (_convert_dequant).
"""

from __future__ import annotations

import numpy as np

from porting_kernels.fp19 import ScaleWordError


def pack(scale: np.ndarray) -> np.ndarray:
    """float32 scales, any shape -> uint64 words, 1-D. Raises ScaleWordError for a scale that is not finite."""
    flat = np.ascontiguousarray(scale, dtype=np.float32).reshape(-1)
    if not np.isfinite(flat).all():
        where = int(np.argmin(np.isfinite(flat)))
        raise ScaleWordError("a scale word cannot hold this scale", required="finite", met=flat[where], where=where)
    return flat.view(np.uint32).astype(np.uint64)


def unpack(word: np.ndarray) -> np.ndarray:
    """uint64 words -> float32 scales, same shape. Raises ScaleWordError for a word with any of its upper bits set."""
    word = np.ascontiguousarray(word, dtype=np.uint64)
    if (word >> np.uint64(32)).any():
        where = tuple(int(i) for i in np.argwhere(word >> np.uint64(32))[0])
        raise ScaleWordError(
            "not a float32 scale word", required="bits 32..63 zero", met=hex(int(word[where])), where=where
        )
    return word.astype(np.uint32).view(np.float32)
