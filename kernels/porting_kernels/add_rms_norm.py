"""porting::AddRMSNorm, a residual sum and its normalization."""

from __future__ import annotations

import torch

from porting_kernels.registry import kernel
from porting_kernels.rms_norm import rms_norm


@kernel("AddRMSNorm", domain="porting")
def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    *,
    epsilon: float = 1e-6,
    weight_offset: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(RMSNorm(sum), sum), where sum is x + residual rounded to their dtype.

    x, residual: (..., H), one shape and dtype. weight: (H,). The norm reads the rounded sum, as it does unfused; see
    :func:`porting_kernels.rms_norm.rms_norm`. Raises ShapeError when weight does not have H elements.
    """
    total = x + residual
    return rms_norm(total, weight, epsilon=epsilon, weight_offset=weight_offset), total
