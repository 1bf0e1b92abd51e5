"""How one weight is quantized."""

from __future__ import annotations

import dataclasses
from typing import get_args

from porting.errors import UsageError
from porting_kernels.weight_quantization import LIMITS, Search


@dataclasses.dataclass(frozen=True)
class WeightSpec:
    """Symmetric integer codes with float32 scales.

    bits: 8 or 4. group: columns under one scale, None for all of a row (one scale an output channel). search: where a
    scale comes from, ``absmax`` or ``mse`` (``porting_kernels.weight_quantization``). whole: divide by half a code more
    than the greatest (127.5 or 7.5), as compressed-tensors does. Raises UsageError for others.
    """

    bits: int = 8
    group: int | None = None
    search: Search = "absmax"
    whole: bool = False

    def __post_init__(self) -> None:
        if (
            self.bits not in LIMITS
            or self.search not in get_args(Search)
            or (self.group is not None and self.group < 1)
        ):
            raise UsageError(
                "no such quantization of weights",
                required=f"{' or '.join(map(str, LIMITS))} bits, search {' or '.join(get_args(Search))}, group above 0",
                met=self,
            )

    @property
    def divisor(self) -> float:
        """What the greatest magnitude is divided by."""
        return LIMITS[self.bits] + (0.5 if self.whole else 0.0)

    def fits(self, columns: int) -> bool:
        """Whether groups divide a row of this many columns."""
        return self.group is None or columns % self.group == 0

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a weight (..., K): (...,), or (..., K / group)."""
        return shape[:-1] if self.group is None else (*shape[:-1], shape[-1] // self.group)
