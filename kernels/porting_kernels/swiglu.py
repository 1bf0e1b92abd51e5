"""porting::SwiGLU, the gated activation of a feed-forward layer whose gate and data come from one product."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from porting_kernels.errors import ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel


@kernel("SwiGLU", domain="porting", owns_result=True)
@rounds_once
def swiglu(
    x: torch.Tensor,
    *,
    interleaved: int = 0,
    alpha: float = 1.0,
    limit: float = math.inf,
    offset: float = 0.0,
) -> torch.Tensor:
    """(up + offset) * gate * sigmoid(alpha * gate), gate at most ``limit`` and up within +-limit.

    x: (..., 2 I) float16, bfloat16 or float32; gate is its first half and up its second, or with ``interleaved`` the
    even and the odd elements. Returns (..., I) of x's dtype; float32 inside, rounded once. The defaults are
    silu(gate) * up; gpt-oss has interleaved 1, alpha 1.702, limit 7, offset 1. Raises ShapeError for an odd last axis.
    """
    if x.shape[-1] % 2:
        raise ShapeError("gate and data are not of equal width", required="an even last axis", met=tuple(x.shape))
    gate, up = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    if limit != math.inf:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    swish = F.silu(gate) if alpha == 1 else gate * torch.sigmoid(gate * alpha)
    return swish.mul_(up + offset if offset else up)
