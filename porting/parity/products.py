"""Which layers multiply with integer weights, and how wrong the worst channel and the worst row of their results are.

Quantization spreads its error over all channels and rows alike, a wrong scale or a wrong expert does not: what drowns
in the norm of a whole tensor stands out here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from porting.parity.anchors import Anchor
from porting.parity.metrics import significant
from porting_passes.constants import constant_of
from porting_passes.quantize_dynamic import QUANTIZED_NUMBERS

# int32: eight packed int4 codes. Small constants of these types are shapes and zero points, and have one dimension.
_WEIGHTS = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT32)
_CODES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Relative L2 error of the worst channel (of the last axis) and of the worst row (of the others).

    An error is taken relative to the energy of its channel or row, or to the mean of all where that is more: next to
    nothing is no measure. channel: index of the worst.
    """

    channel_rel_l2: float
    row_rel_l2: float
    channel: int

    def to_json(self) -> dict[str, Any]:
        """The ``spread`` entry of a layer in ``parity.json``."""
        return {
            "channel_rel_l2": significant(self.channel_rel_l2),
            "row_rel_l2": significant(self.row_rel_l2),
            "channel": self.channel,
        }


@dataclasses.dataclass
class SpreadSums:
    """One sample (or several, merged). noise, energy: (N,) float64 by channel. rows: how many; row: the worst."""

    noise: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    energy: torch.Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    row: float = 0.0

    def update(self, reference: torch.Tensor, result: torch.Tensor) -> None:
        """Add one pair of equal shape (..., N); elements that are not finite on either side are left out."""
        if not reference.numel() or not reference.ndim:
            return
        r, s = (x.reshape(-1, x.shape[-1]).double() for x in (reference, result))
        usable = r.isfinite() & s.isfinite()
        noise = torch.where(usable, r - s, 0.0).square_()
        energy = torch.where(usable, r, 0.0).square_()
        self.row = max(self.row, float(_relative(noise.sum(1), energy.sum(1)).max()))
        self._add(noise.sum(0), energy.sum(0))

    def merge(self, other: SpreadSums) -> None:
        """Add another sample."""
        self.row = max(self.row, other.row)
        self._add(other.noise, other.energy)

    def _add(self, noise: torch.Tensor, energy: torch.Tensor) -> None:
        width = max(len(self.noise), len(noise))
        self.noise = _wide(self.noise, width) + _wide(noise, width)
        self.energy = _wide(self.energy, width) + _wide(energy, width)

    def spread(self) -> Spread:
        """The finished numbers."""
        if not len(self.noise):
            return Spread(0.0, 0.0, 0)
        relative = _relative(self.noise, self.energy)
        worst = int(relative.argmax())
        return Spread(float(relative[worst]), self.row, worst)


def _relative(noise: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    floor = torch.maximum(energy, energy.mean())
    return torch.where(noise > 0, (noise / floor).sqrt().clamp(max=1e15), 0.0)


def _wide(sums: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(sums, (0, width - len(sums)))


def quantized(ported: ir.Model, anchors: Sequence[Anchor]) -> set[str]:
    """Ported names of the anchors that are computed from other anchors through integer codes or quantized weights."""
    stop = {anchor.value for anchor in anchors}
    values = {v.name: v for node in ported.graph for v in node.outputs}
    return {name for name in stop if name in values and _through_integers(values[name], stop)}


def _through_integers(value: ir.Value, stop: set[str]) -> bool:
    pending, seen = [value.producer()], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if QUANTIZED_NUMBERS in node.metadata_props:
            return True
        for operand in (v for v in node.inputs if v is not None):
            tensor = constant_of(operand)
            if tensor is not None:
                if tensor.dtype in _WEIGHTS and len(tensor.shape) > 1:
                    return True
            elif operand.dtype in _CODES:
                return True
            elif operand.name not in stop:
                pending.append(operand.producer())
    return False
