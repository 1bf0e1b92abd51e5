"""BatchNormalization, whose way to ask for training changed with almost every version.

Outputs are (Y,) in inference; in training Y, the running mean and variance, and before opset 14 also the batch's own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from porting_kernels.precision import is_half, rounds_once, widen
from porting_kernels.registry import Context, kernel

_Tensors = tuple[torch.Tensor, ...]


def _normalize(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    *,
    epsilon: float,
    momentum: float,
    training: bool,
    spatial: bool = True,
) -> _Tensors:
    """Y, then in training running mean and variance and batch mean and (population) variance.

    Statistics are (C,), or with ``spatial`` off one an element, (C, D1..Dn).
    """
    wide = widen(x)
    scale, b, used_mean, used_var = (v.to(wide.dtype) for v in (scale, b, mean, var))
    batch: _Tensors = ()
    if training:
        axes = (0, *range(2, x.ndim)) if spatial else (0,)
        batch_var, batch_mean = torch.var_mean(wide, dim=axes, correction=0)
        running = tuple(
            (old * momentum + new * (1 - momentum)).to(stored.dtype)
            for stored, old, new in ((mean, used_mean, batch_mean), (var, used_var, batch_var))
        )
        batch = (*running, batch_mean.to(mean.dtype), batch_var.to(var.dtype))
        used_mean, used_var = batch_mean, batch_var
    if spatial:
        y = F.batch_norm(wide, used_mean, used_var, scale, b, False, 0.0, epsilon)
    else:
        y = (wide - used_mean) / torch.sqrt(used_var + epsilon) * scale + b
    return (y.to(x.dtype), *batch)


def _with_constant_statistics(
    x: torch.Tensor | None,
    *statistics: torch.Tensor | None,
    epsilon: float = 1e-5,
    training_mode: int = 0,
    context: Context | None = None,
    **attributes: float,
) -> Callable[..., torch.Tensor] | None:
    """x * factor + offset with both computed once, as torch does for each call; in one pass instead of two.

    Half-precision x is widened and rounded once; x of another dtype or with other channels is left to the kernel.
    """
    constants = [
        v for v in statistics if v is not None and v.ndim == 1 and (v.dtype == torch.float32 or is_half(v.dtype))
    ]
    if training_mode or len(constants) != 4 or (context is not None and context.outputs > 1):
        return None
    scale, b, mean, var = map(widen, constants)
    factor = scale / torch.sqrt(var + epsilon)
    offset = b - mean * factor

    @rounds_once
    def normalize(x: torch.Tensor, *statistics: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32 or x.ndim < 2 or x.shape[1] != len(factor):
            return _normalize(x, *statistics, epsilon=epsilon, momentum=0.0, training=False)[0]
        shape = (-1,) + (1,) * (x.ndim - 2)
        return torch.addcmul(offset.view(shape), x, factor.view(shape))

    return normalize


@kernel("BatchNormalization", since=14, specialize=_with_constant_statistics, owns_result=True)
def batch_normalization(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    input_mean: torch.Tensor,
    input_var: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> _Tensors:
    """(x - mean) / sqrt(var + epsilon) * scale + b with statistics (C,), or with training_mode the batch's own.

    Source: ONNX operator BatchNormalization. Statistics may be of another float dtype than x; they are converted.
    """
    results = _normalize(
        x, scale, b, input_mean, input_var, epsilon=epsilon, momentum=momentum, training=bool(training_mode)
    )
    return results[:3]


@kernel("BatchNormalization", since=9, specialize=_with_constant_statistics, owns_result=True)
def batch_normalization_9(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    context: Context,
) -> _Tensors:
    """Opset 9 to 13: training when the node names more than one output."""
    return _normalize(x, scale, b, mean, var, epsilon=epsilon, momentum=momentum, training=context.outputs > 1)


@kernel("BatchNormalization", since=7)
def batch_normalization_7(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    context: Context,
) -> _Tensors:
    """Opset 7 and 8: as 9, with statistics an element when ``spatial`` is 0."""
    return _normalize(
        x,
        scale,
        b,
        mean,
        var,
        epsilon=epsilon,
        momentum=momentum,
        training=context.outputs > 1,
        spatial=bool(spatial),
    )


@kernel("BatchNormalization", since=1)
def batch_normalization_1(
    x: torch.Tensor,
    scale: torch.Tensor,
    b: torch.Tensor,
    mean: torch.Tensor,
    var: torch.Tensor,
    *,
    consumed_inputs: list[int] | None = None,
    epsilon: float = 1e-5,
    is_test: int = 0,
    momentum: float = 0.9,
    spatial: int = 1,
) -> _Tensors:
    """Opset 1 to 6: training unless ``is_test``."""
    return _normalize(
        x, scale, b, mean, var, epsilon=epsilon, momentum=momentum, training=not is_test, spatial=bool(spatial)
    )
