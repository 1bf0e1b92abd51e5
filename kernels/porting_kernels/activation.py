"""Activation functions, Clip and inference-time Dropout's companions: element by element, in the dtype of x.

Formulas are those of the ONNX operator documents. Half precision is computed in float32 and rounded once.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from porting_kernels.carriers import WIDE_UNSIGNED, through_numpy
from porting_kernels.errors import PortingError
from porting_kernels.legacy_broadcast import kernel_with_legacy_broadcast
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel


@kernel("Relu", in_place=torch.relu_)
def relu(x: torch.Tensor, *, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """max(x, 0)."""
    return torch.relu(x)


@kernel("LeakyRelu")
def leaky_relu(x: torch.Tensor, *, alpha: float = 0.01, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """x where x >= 0, else alpha * x."""
    return F.leaky_relu(x, alpha)


@kernel_with_legacy_broadcast("PRelu")
def prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """x where x >= 0, else slope * x; the slope broadcasts to x."""
    return torch.where(x < 0, slope * x, x)


@kernel("ThresholdedRelu", since=10)
def thresholded_relu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """x where x > alpha, else 0."""
    return F.threshold(x, alpha, 0.0)


@kernel("Sigmoid")
def sigmoid(x: torch.Tensor, *, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@kernel("HardSigmoid")
@rounds_once
def hard_sigmoid(
    x: torch.Tensor, *, alpha: float = 0.2, beta: float = 0.5, consumed_inputs: list[int] | None = None
) -> torch.Tensor:
    """max(0, min(1, alpha * x + beta))."""
    return torch.add(x.mul(alpha), beta).clamp_(0, 1)


@kernel("HardSwish", since=14)
def hard_swish(x: torch.Tensor) -> torch.Tensor:
    """x * max(0, min(1, x / 6 + 0.5))."""
    return F.hardswish(x)


@kernel("Elu")
@rounds_once
def elu(x: torch.Tensor, *, alpha: float = 1.0, consumed_inputs: list[int] | None = None) -> torch.Tensor:
    """x where x >= 0, else alpha * (exp(x) - 1)."""
    return F.elu(x, alpha)


@kernel("Selu")
@rounds_once
def selu(
    x: torch.Tensor,
    *,
    alpha: float = 1.6732632423543772,
    gamma: float = 1.0507009873554805,
    consumed_inputs: list[int] | None = None,
) -> torch.Tensor:
    """Gamma * x where x > 0, else gamma * alpha * (exp(x) - 1)."""
    return F.elu(x, alpha).mul(gamma)


@kernel("Celu", since=12)
@rounds_once
def celu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return F.celu(x, alpha)


@kernel("Softplus")
@rounds_once
def softplus(x: torch.Tensor) -> torch.Tensor:
    """ln(1 + exp(x)), without overflow."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype))


@kernel("Softsign")
@rounds_once
def softsign(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@kernel("Gelu", since=20)
@rounds_once
def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """x * Phi(x) by the error function, or by its tanh approximation."""
    return F.gelu(x, approximate=approximate)


@kernel("Mish", since=18)
@rounds_once
def mish(x: torch.Tensor) -> torch.Tensor:
    """x * tanh(softplus(x))."""
    return F.mish(x)


@kernel("Swish", since=24)
@rounds_once
def swish(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    """x * sigmoid(alpha * x)."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@kernel("Shrink", since=9)
def shrink(x: torch.Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> torch.Tensor:
    """x + bias where x < -lambd, x - bias where x > lambd, else 0."""
    wide = x if x.is_floating_point() else x.to(torch.float64)
    shrunk = torch.where(wide < -lambd, wide + bias, torch.where(wide > lambd, wide - bias, torch.zeros_like(wide)))
    return shrunk.to(x.dtype)


@kernel("Clip")
def clip_by_attributes(
    x: torch.Tensor,
    *,
    min: float = -math.inf,  # the attributes are called so
    max: float = math.inf,
    consumed_inputs: list[int] | None = None,
) -> torch.Tensor:
    """Clip of opset 1 to 10: limits are attributes; NaN stays NaN."""
    return torch.clamp(x, min, max)


def _clip_over(x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None) -> torch.Tensor:
    result: torch.Tensor = clip(x, low, high, out=x)
    return result


@kernel("Clip", since=11, in_place=_clip_over)
def clip(
    x: torch.Tensor,
    low: torch.Tensor | None = None,
    high: torch.Tensor | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """max(low, min(high, x)) with scalar limits; all of it is ``high`` where low > high. NaN stays NaN."""
    for limit in (low, high):
        if limit is not None and limit.numel() != 1:
            raise PortingError("a limit of Clip is not a scalar", required="one element", met=list(limit.shape))
    if low is None and high is None:
        return x
    if x.dtype in WIDE_UNSIGNED:
        x = x if low is None else through_numpy(np.maximum, x, low.reshape(()))
        return x if high is None else through_numpy(np.minimum, x, high.reshape(()))
    return torch.clamp(x, None if low is None else low.item(), None if high is None else high.item(), out=out)
