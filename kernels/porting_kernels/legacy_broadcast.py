"""Broadcasting as it was before opset 7: only the second operand, only on request, at a given axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from porting_kernels.registry import kernel

_MODERN = 7


def kernel_with_legacy_broadcast(op_type: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a kernel of two operands for opset 7 on, and for opset 1 to 6 with the attributes it had then.

    axis: where the axes of b start among those of a; at the end when absent. broadcast: 0 means equal shapes.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def legacy(
            a: torch.Tensor,
            b: torch.Tensor,
            *,
            axis: int | None = None,
            broadcast: int = 0,
            consumed_inputs: list[int] | None = None,
        ) -> torch.Tensor:
            if broadcast and axis is not None:
                start = axis if axis >= 0 else axis + a.dim()
                b = b.reshape(b.shape + (1,) * (a.dim() - start - b.dim()))
            result: torch.Tensor = function(a, b)
            return result

        kernel(op_type, since=1)(legacy)
        return kernel(op_type, since=_MODERN)(function)

    return register
