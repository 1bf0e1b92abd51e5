"""HannWindow, HammingWindow and BlackmanWindow: sums of cosines over (N,), computed in float64 and rounded once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from porting_kernels import dtypes
from porting_kernels.registry import Context, kernel


def _register(op_type: str, coefficients: Sequence[float]) -> None:
    def window(size: torch.Tensor, *, periodic: int = 1, output_datatype: int = 1, context: Context) -> torch.Tensor:
        length = int(size)
        span = length if periodic else length - 1
        angle = torch.arange(length, dtype=torch.float64) * (2 * math.pi / span if span else 0.0)
        values = sum(c * torch.cos(order * angle) for order, c in enumerate(coefficients))
        assert isinstance(values, torch.Tensor)
        dtype = dtypes.torch_dtype(output_datatype)
        return values.to(dtypes.promoted(dtype) if context.numerics.float64 else dtype)

    kernel(op_type, since=17)(window)


_register("HannWindow", (0.5, -0.5))
_register("HammingWindow", (25 / 46, -21 / 46))
_register("BlackmanWindow", (0.42, -0.5, 0.08))
