"""porting::RMSNorm, division by the root mean square over the last axis, then a scale."""

from __future__ import annotations

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel


@kernel("RMSNorm", domain="porting", owns_result=True)
@rounds_once
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, *, epsilon: float = 1e-6, weight_offset: float = 0.0
) -> torch.Tensor:
    """X / sqrt(mean(x**2) + epsilon) * (weight + weight_offset) over the last axis.

    x: (..., H) float16, bfloat16 or float32. weight: (H,). Returns the shape and dtype of x; float32 inside, rounded
    once. weight_offset is 1 in Gemma. Llama and its kin round the quotient to x's dtype before they scale it, gpt-oss
    and Gemma do not: in half precision the former differ from this by that rounding. Raises ShapeError when weight
    does not have H elements.
    """
    if weight.shape != x.shape[-1:]:
        raise ShapeError("weight does not fit the last axis", required=tuple(x.shape[-1:]), met=tuple(weight.shape))
    scale = weight + weight_offset if weight_offset else weight
    return torch.nn.functional.rms_norm(x, weight.shape, scale, epsilon)
