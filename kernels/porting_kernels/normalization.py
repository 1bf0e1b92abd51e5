"""Normalizations by batch, instance, layer, group and root mean square.

x is (N, C, D1..Dn) unless said otherwise. Half-precision inputs are normalized in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from porting_kernels.dtypes import torch_dtype
from porting_kernels.errors import ShapeError
from porting_kernels.precision import rounds_once, widen
from porting_kernels.registry import Context, kernel


@kernel("InstanceNormalization")
@rounds_once
def instance_normalization(
    x: torch.Tensor, scale: torch.Tensor, b: torch.Tensor, *, epsilon: float = 1e-5
) -> torch.Tensor:
    """Zero mean and unit variance over the spatial axes of each instance and channel; scale, b: (C,)."""
    # A group a channel: the same statistics, several times as fast as torch.instance_norm.
    return torch.group_norm(x, x.shape[1], scale, b, epsilon, False)


@kernel("LayerNormalization", since=17)
def layer_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    context: Context,
) -> tuple[torch.Tensor, ...]:
    """Normalize x over its axes from ``axis`` on; returns Y and on request Mean and InvStdDev (kept axes of 1).

    scale, b: the shape of the normalized axes, or broadcastable to x. Computed in float32 or wider and rounded once,
    as onnxruntime does; mean and deviation have the stash_type. Source: ONNX operator LayerNormalization.
    """
    shape = x.shape[axis:] if axis else x.shape
    wide, scale = widen(x), widen(scale)
    b = None if b is None else widen(b)
    fits = scale.shape == shape and (b is None or b.shape == shape)
    if fits and context.outputs == 1:
        return (F.layer_norm(wide, shape, scale, b, epsilon).to(x.dtype),)
    y, mean, inverse = torch.native_layer_norm(wide, shape, scale if fits else None, b if fits else None, epsilon)
    if not fits:
        y = y * scale if b is None else torch.addcmul(b, y, scale)
    stash = wide.dtype if context.numerics.float64 else torch_dtype(stash_type)
    return y.to(x.dtype), mean.to(stash), inverse.to(stash)


@kernel("RMSNormalization", since=23)
@rounds_once
def rms_normalization(
    x: torch.Tensor, scale: torch.Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> torch.Tensor:
    """X / sqrt(mean(x**2) + epsilon) * scale over the axes from ``axis`` on. Source: ONNX operator RMSNormalization.

    The mean square is taken in float32 or wider, whatever stash_type says: one rounding, at the output.
    """
    shape = x.shape[axis:] if axis else x.shape
    if scale.shape == shape:
        return F.rms_norm(x, shape, scale, epsilon)
    return F.rms_norm(x, shape, None, epsilon) * scale


def _check_groups(x: torch.Tensor, num_groups: int) -> None:
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ShapeError("channels do not divide into groups", required=f"a multiple of {num_groups}", met=x.shape[1])


@kernel("GroupNormalization", since=21)
@rounds_once
def group_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> torch.Tensor:
    """Zero mean and unit variance over each group of channels; scale, bias: (C,). Source: ONNX GroupNormalization."""
    _check_groups(x, num_groups)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@kernel("GroupNormalization", since=18)
@rounds_once
def group_normalization_18(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, num_groups: int, epsilon: float = 1e-5
) -> torch.Tensor:
    """GroupNormalization of opset 18 to 20: scale and bias hold one entry a group."""
    _check_groups(x, num_groups)
    width = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(width), bias.repeat_interleave(width), epsilon)


@kernel("LRN")
@rounds_once
def local_response_normalization(
    x: torch.Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> torch.Tensor:
    """X / (bias + alpha / size * sum of squares over ``size`` channels around)**beta.

    An even size looks one channel further ahead than back. Source: ONNX operator LRN.
    """
    channels, before = x.shape[1], (size - 1) // 2
    squares = x * x
    total = squares.clone()
    for shift in range(-before, size - before):
        if shift and abs(shift) < channels:
            to, of = (
                (slice(None, -shift), slice(shift, None)) if shift > 0 else (slice(-shift, None), slice(None, shift))
            )
            total[:, to] += squares[:, of]
    return x / total.mul_(alpha / size).add_(bias).pow_(beta)


@kernel("LpNormalization")
@rounds_once
def lp_normalization(x: torch.Tensor, *, axis: int = -1, p: int = 2) -> torch.Tensor:
    """X / its p-norm along axis; a zero norm gives zeros. Source: ONNX operator LpNormalization."""
    norm = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros((), dtype=x.dtype), x / norm)


@kernel("MeanVarianceNormalization", since=9)
@rounds_once
def mean_variance_normalization(x: torch.Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> torch.Tensor:
    """(x - mean) / (standard deviation + 1e-9) over axes. Source: ONNX operator MeanVarianceNormalization."""
    variance, mean = torch.var_mean(x, dim=tuple(axes), correction=0, keepdim=True)
    return (x - mean) / (variance.sqrt() + 1e-9)
