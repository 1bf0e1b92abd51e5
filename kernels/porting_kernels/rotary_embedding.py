"""porting::RotaryEmbedding, pairs of elements turned by an angle that grows with the position."""

from __future__ import annotations

import torch

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel

LAYOUTS = ("half", "interleaved", "interleaved_to_half")


@kernel("RotaryEmbedding", domain="porting", owns_result=True)
@rounds_once
def rotary_embedding(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, layout: str = "half") -> torch.Tensor:
    """(a cos - b sin, b cos + a sin) for each pair (a, b) of the last axis.

    x: (B, heads, S, R) float16, bfloat16 or float32. cos, sin: (B or 1, S, R / 2), any scaling (YaRN's) included.
    layout ``half``: a is the first half and b the second, in the result too (Llama and its kin). ``interleaved``: a are
    the even elements and b the odd ones, in the result too; DeepSeek's inference/model.py. ``interleaved_to_half``: the
    same pairs, the result in halves; transformers' DeepSeek-V3, whose query and key are permuted alike, so that their
    product is that of ``interleaved``. Returns the shape and dtype of x; float32 inside, rounded once. Raises
    ShapeError when the tables are not half as wide as x.
    """
    if layout not in LAYOUTS:
        raise PortingError("unknown layout of rotary pairs", required=" | ".join(LAYOUTS), met=layout)
    if x.shape[-1] % 2 or cos.shape[-1] * 2 != x.shape[-1] or sin.shape != cos.shape:
        raise ShapeError(
            "rotary tables do not fit", required=f"(..., {x.shape[-1]} / 2)", met=(tuple(cos.shape), tuple(sin.shape))
        )
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    a, b = x.chunk(2, -1) if layout == "half" else (x[..., 0::2], x[..., 1::2])
    turned = a * cos - b * sin, b * cos + a * sin
    return torch.stack(turned, -1).flatten(-2) if layout == "interleaved" else torch.cat(turned, -1)
