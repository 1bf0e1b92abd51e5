"""What an int4 product adds where the hardware reads codes as unsigned."""

from __future__ import annotations

import torch


def scale_bias(codes: torch.Tensor, scale: torch.Tensor, slices: int) -> torch.Tensor:
    """8 * sum of code * scale of each row. codes: int8 [r, K]; scale: float32 [r, G] -> float32 [r, slices].

    Each slice sums K / slices columns. Sums and products are exact, in float64 (but for the sum over groups), and
    rounded once. Source: Ascend/msmodelslim, quantization format AscendV1, W4A8_DYNAMIC.
    """
    rows, groups = scale.shape
    parts = groups if groups > 1 else slices
    sums = codes.reshape(rows, parts, -1).sum(-1).double() * scale.double()
    return sums.reshape(rows, slices, -1).sum(-1).mul_(8).float()
