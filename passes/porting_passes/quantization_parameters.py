"""From ranges to the numbers of static int8: multiplier and offset of an activation, codes and steps of a weight.

Both parameter forms come down to ``q = saturate(round(x * multiplier + offset))``: ``reciprocal_scale`` has the
multiplier 127 / absmax (255 / span with an offset), ``position_scale`` has scale / 2**position as derived by
:mod:`porting_kernels.fixed_point`.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from porting_kernels import fixed_point
from porting_kernels.errors import PortingError
from porting_passes.quantization_style import Granularity, ParameterForm, Symmetry

LEVELS = 127
# Below this, 127 / absmax or its inverse is no normal float32 any more: such a range counts as zero.
LEAST_RANGE = 255 * float(np.finfo(np.float32).tiny)
# The step of a weight of zeros: fine enough for its bias, coarse enough that one of up to 2**14 activation steps fits.
_IDLE_STEP = 2.0**-16


@dataclasses.dataclass(frozen=True)
class ActivationRange:
    """The least and the greatest value that an activation is quantized for; values beyond saturate."""

    min: float
    max: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min) and math.isfinite(self.max)) or self.min > self.max:
            raise PortingError("not a range", required="finite, min <= max", met=f"[{self.min}, {self.max}]")

    @property
    def absmax(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.min), abs(self.max))


@dataclasses.dataclass(frozen=True)
class ActivationParameters:
    """q = saturate(round(x * multiplier + offset)), x = (q - offset) / multiplier; multiplier is a float32 value."""

    multiplier: float
    offset: int = 0


def activation_parameters(range_: ActivationRange, symmetry: Symmetry, form: ParameterForm) -> ActivationParameters:
    """Parameters of a range; a range that is all zero (or too small for float32 scales) gets multiplier 1, offset 0."""
    low, high = min(range_.min, 0.0), max(range_.max, 0.0)
    if max(-low, high) < LEAST_RANGE:
        return ActivationParameters(1.0)
    if form == "position_scale":
        fixed = fixed_point.symmetric(range_.absmax) if symmetry == "symmetric" else fixed_point.asymmetric(low, high)
        return ActivationParameters(fixed.multiplier, fixed.offset)
    if symmetry == "symmetric":
        return ActivationParameters(float(np.float32(LEVELS / range_.absmax)))
    multiplier = float(np.float32(255.0 / (high - low)))
    return ActivationParameters(multiplier, int(np.clip(np.rint(-128.0 - low * multiplier), -128, 127)))


@dataclasses.dataclass(frozen=True)
class WeightCodes:
    """A quantized weight.

    codes: int8, the shape of the weight. steps: float64, one a channel or one element: w = codes * step.
    zero_channels: channels of zeros only. tiny_channels: channels whose step would not be a normal float32; their
    codes are 0, which changes no product by more than 1e-36 of the activation. Both kinds take the median of the other
    channels' steps (2**-16 where there are none): their bias is counted in it.
    """

    codes: np.ndarray
    steps: np.ndarray
    zero_channels: int
    tiny_channels: int


def weight_absmax(weight: np.ndarray, axis: int, granularity: Granularity) -> np.ndarray:
    """Greatest magnitude of each channel (float32, one an index of ``axis``), or of the whole weight (one element)."""
    others = tuple(i for i in range(weight.ndim) if i != axis) if granularity == "channel" else None
    return np.asarray(np.abs(weight).max(axis=others, initial=0.0), dtype=np.float32).reshape(-1)


def _middle(values: np.ndarray, otherwise: float) -> float:
    """The median, as one of the values."""
    return float(np.sort(values)[values.size // 2]) if values.size else otherwise


def quantize_weight(weight: np.ndarray, axis: int, absmax: np.ndarray, form: ParameterForm) -> WeightCodes:
    """Symmetric int8 codes of a finite float32 weight; ``absmax`` as from :func:`weight_absmax`.

    reciprocal_scale: step = absmax / 127 in float32, code = round half even of w / step. position_scale: code = round
    half away of w * scale / 2**position, the default of the vendor's host code. Codes lie in [-127, 127].
    """
    usable = absmax >= LEAST_RANGE
    shape = [1] * weight.ndim
    shape[axis if absmax.size > 1 else 0] = absmax.size
    if form == "reciprocal_scale":
        step = absmax / np.float32(LEVELS)
        step = np.where(usable, step, np.float32(_middle(step[usable], _IDLE_STEP)))
        scaled = np.rint(weight / step.reshape(shape))
        steps = step.astype(np.float64)
    else:
        found = [fixed_point.symmetric(float(a)).multiplier for a in absmax[usable]]
        multiplier = np.full(absmax.size, _middle(np.asarray(found, np.float32), 1 / _IDLE_STEP), np.float32)
        multiplier[usable] = found
        scaled = weight * multiplier.reshape(shape)
        whole = np.trunc(scaled)
        scaled = whole + np.sign(scaled) * (np.abs(scaled - whole) >= 0.5)
        steps = 1.0 / multiplier.astype(np.float64)
    codes = np.clip(scaled, -LEVELS, LEVELS).astype(np.int8)
    codes *= usable.reshape(shape)
    return WeightCodes(codes, steps, int((absmax == 0).sum()), int(((absmax > 0) & ~usable).sum()))
