"""Smoothing: outlier channels of activations moved into the weights that multiply them (SmoothQuant).

x @ W.T = (x / s) @ (W * s).T for any positive s, one factor an input channel. What comes before x takes the division
(the weight of a normalization, or the ``smooth`` operand of DynamicQuantize), the quantizer of W the multiplication
(``quantize_weight(..., column_factors=s)``).
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
import torch

from porting.errors import InvalidModelError, ShapeError, UsageError
from porting.quantization.float_rows import FloatRows
from porting_kernels import dtypes

ALPHA = 0.5
"""Half of the difficulty to either side; source: SmoothQuant (Xiao et al., 2023), section 4."""
_BLOCK = 1 << 20
_MOST = 2.0**64


def column_absmax(weights: Iterable[ir.TensorProtocol]) -> torch.Tensor:
    """The greatest magnitude of each input channel over weights (..., K) that multiply one activation: float32 (K,).

    All that share the input belong here: q_a and kv_a; gate and up; router and experts. Views are read by blocks.
    Raises ShapeError for weights of different K or none, InvalidModelError for NaN and infinity.
    """
    greatest: torch.Tensor | None = None
    for weight in weights:
        rows = FloatRows(weight)
        greatest = torch.zeros(rows.columns) if greatest is None else greatest
        if greatest.shape != (rows.columns,):
            raise ShapeError(
                "weights of one activation differ in columns",
                required=len(greatest),
                met=rows.columns,
                where=weight.name,
            )
        for block in rows.blocks(_BLOCK):
            greatest = torch.maximum(greatest, block.abs().amax(0))
        if not torch.isfinite(greatest).all():
            raise InvalidModelError("a weight is not finite", required="finite weights", where=weight.name)
    if greatest is None:
        raise ShapeError("no weights to smooth")
    return greatest


def smoothing_factors(
    activation_absmax: torch.Tensor,
    weight_absmax: torch.Tensor,
    *,
    alpha: float = ALPHA,
    power_of_two: bool = True,
) -> torch.Tensor:
    """s = activation_absmax**alpha / weight_absmax**(1 - alpha), float32 (K,), the geometric mean made 1.

    activation_absmax, weight_absmax: (K,), not negative. alpha: 0 leaves all difficulty to the activations, 1 to the
    weights. A channel that one side never uses has factor 1, and takes no part in the mean. power_of_two: the nearest
    one in logarithm, ties to even, so that dividing a normalization in any float format rounds nothing; otherwise s is
    rounded to float32. The computation is float64; factors stay within 2**-64 and 2**64.
    Raises UsageError for alpha outside 0 to 1, ShapeError for other shapes, InvalidModelError unless all are finite and
    not negative. Source: SmoothQuant (Xiao et al., 2023), equation 4; the mean is ours, and cancels in the product.
    """
    if not 0 <= alpha <= 1:
        raise UsageError("no such share of smoothing", required="alpha from 0 to 1", met=alpha)
    if activation_absmax.ndim != 1 or activation_absmax.shape != weight_absmax.shape:
        raise ShapeError(
            "maxima of activation and weight differ",
            required="(K,) of each",
            met=f"{dtypes.describe(activation_absmax)}, {dtypes.describe(weight_absmax)}",
        )
    for values in (activation_absmax, weight_absmax):
        if not (torch.isfinite(values) & (values >= 0)).all():
            raise InvalidModelError("maxima to smooth by are not finite or negative", required="finite, at least 0")
    used = (activation_absmax > 0) & (weight_absmax > 0)
    activation, weight = activation_absmax.double(), weight_absmax.double()
    exponent = torch.where(used, alpha * activation.log2() - (1 - alpha) * weight.log2(), 0.0)
    if used.any():
        exponent = torch.where(used, exponent - exponent[used].mean(), 0.0)
    if power_of_two:
        exponent = exponent.round()
    return exponent.exp2().clamp(1 / _MOST, _MOST).float()


def divided_norm(weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The weight (K,) of a normalization, divided by the factors of what it feeds, in its own dtype.

    The quotient is made in float32 (float64 for float64) and rounded once; for factors that are powers of two it is
    exact unless it leaves the range of the dtype. Raises ShapeError when they do not fit, InvalidModelError when a
    quotient overflows, or a number that was none becomes 0.
    """
    if weight.shape != factors.shape:
        raise ShapeError(
            "factors do not fit the normalization",
            required=dtypes.describe(weight),
            met=dtypes.describe(factors),
        )
    divided = (weight.to(torch.promote_types(weight.dtype, torch.float32)) / factors).to(weight.dtype)
    lost = (torch.isfinite(weight) & ~torch.isfinite(divided)) | ((weight != 0) & (divided == 0))
    if lost.any():
        channel = int(lost.nonzero()[0])
        raise InvalidModelError(
            "a smoothed normalization leaves the range of its type",
            required=f"numbers within {str(weight.dtype).removeprefix('torch.')}",
            met=f"{weight[channel].item()} / {factors[channel].item()} in channel {channel}",
            fix="smooth with a smaller alpha, or port in bfloat16",
        )
    return divided


def smooth_operand(factors: torch.Tensor) -> torch.Tensor:
    """What DynamicQuantize multiplies x by where no normalization can take it: 1 / s, float32 (K,).

    Source: jd-opensource/xllm:xllm/core/layers/common/tests/dense_mlp_tests.cpp (``smooth`` multiplies the activation).
    """
    return factors.reciprocal()
