"""Statistics of the reference, value by value: what ``evidence/reference.json`` keeps of it.

Enough to see from the port alone what range each layer of the source had, without its weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from porting.parity.metrics import significant

SCHEMA_VERSION = 1


@dataclasses.dataclass
class Statistics:
    """Sums over the finite elements of one value, in float64."""

    count: int = 0
    finite: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    total: float = 0.0
    energy: float = 0.0

    def update(self, tensor: torch.Tensor) -> None:
        """Add the elements of one sample."""
        x = tensor.detach().reshape(-1).double()
        self.count += x.numel()
        x = x[x.isfinite()]
        if x.numel():
            self.finite += x.numel()
            self.minimum = min(self.minimum, float(x.min()))
            self.maximum = max(self.maximum, float(x.max()))
            self.total += float(x.sum())
            self.energy += float((x * x).sum())

    def merge(self, other: Statistics) -> None:
        """Add the sums of another sample."""
        self.count += other.count
        self.finite += other.finite
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.total += other.total
        self.energy += other.energy

    def to_json(self) -> dict[str, float | int | None]:
        """min, max, mean and root mean square of the finite elements; null when there are none."""
        known = self.finite > 0
        return {
            "count": self.count,
            "nonfinite": self.count - self.finite,
            "min": significant(self.minimum) if known else None,
            "max": significant(self.maximum) if known else None,
            "mean": significant(self.total / self.finite) if known else None,
            "rms": significant(math.sqrt(self.energy / self.finite)) if known else None,
        }


def document(statistics: Mapping[str, Statistics], samples: int) -> dict[str, Any]:
    """``evidence/reference.json``: values in the order in which the port computes them."""
    values = [{"name": name, **s.to_json()} for name, s in statistics.items()]
    return {"schema_version": SCHEMA_VERSION, "samples": samples, "values": values}
