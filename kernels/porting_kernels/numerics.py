"""How a backend computes, as a value.

The defaults are the exact meaning of every operator. A backend's numerics file overrides single fields; each
override is one line of that file with its source, so that a difference between the exact meaning and the chip
can be blamed on a line.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

Rounding = Literal["half_even", "half_away", "half_up"]
ScaleFormat = Literal["float32", "fp19"]
Overflow = Literal["infinite", "saturate"]


@dataclasses.dataclass(frozen=True)
class Numerics:
    """One field a decision that a chip makes and ONNX does not.

    quantize_rounding: float -> integer code, ties only; everything else goes to the nearest.
    dequantize_scale: the stored form of the float32 scale that multiplies an int32 accumulator; ``fp19`` keeps
        sign, 8 exponent and 10 mantissa bits, the low 13 bits are cut off.
    dequantize_overflow: what a dequantized value beyond float16 becomes.
    float64: run floating-point operators in float64 (the ``ref64`` mode), independent of the model's dtype.
    """

    quantize_rounding: Rounding = "half_even"
    dequantize_scale: ScaleFormat = "float32"
    dequantize_overflow: Overflow = "infinite"
    float64: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("quantize_rounding", get_args(Rounding)),
            ("dequantize_scale", get_args(ScaleFormat)),
            ("dequantize_overflow", get_args(Overflow)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; one of {', '.join(allowed)}")


EXACT = Numerics()
REF64 = Numerics(float64=True)
