"""How far the weights of a converted folder are from those of its source, tensor by tensor, streamed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from porting.checkpoint.decoded import ConvertedFolder
from porting.checkpoint.progress import Progress, Silent
from porting.checkpoint.source import Source, SourceTensor

SCHEMA_VERSION = 1
_ELEMENTS = 1 << 20


@dataclasses.dataclass(frozen=True)
class TensorError:
    """sqnr_db: 10 log10 of the source's energy over that of the error; infinite for equal numbers.

    rel_l2: the root of its inverse. saturated: share of codes at the ends of their range; None for floats.
    worst_row, worst_rel_l2: the row with the greatest relative error. not_finite: numbers of the result that are none.
    """

    name: str
    stored: str
    elements: int
    sqnr_db: float
    rel_l2: float
    max_abs: float
    saturated: float | None
    worst_row: int
    worst_rel_l2: float
    not_finite: int

    def to_json(self) -> dict[str, Any]:
        """For programs: what is infinite is null."""
        return {key: None if isinstance(value, float) and math.isinf(value) else value
                for key, value in dataclasses.asdict(self).items()}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Comparison:
    """tensors: in the order of the source."""

    source: str
    converted: str
    form: str
    tensors: tuple[TensorError, ...]

    @property
    def quantized(self) -> tuple[TensorError, ...]:
        """Those that differ or hold codes, the worst first."""
        changed = [each for each in self.tensors if each.saturated is not None or each.rel_l2 > 0 or each.not_finite]
        return tuple(sorted(changed, key=lambda each: (-each.not_finite, -each.rel_l2, each.name)))

    def past(self, max_rel_l2: float) -> list[TensorError]:
        """Tensors over the limit, and those with numbers that are none."""
        return [each for each in self.quantized if each.not_finite or not each.rel_l2 <= max_rel_l2]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "schema_version": SCHEMA_VERSION, "source": self.source, "converted": self.converted, "format": self.form,
            "tensors": [each.to_json() for each in self.tensors],
        }  # fmt: skip


def compare(source: Source, folder: Path, *, threads: int = 1, progress: Progress | None = None) -> Comparison:
    """Read both and measure every tensor. InvalidModelError for a folder that lacks one or is of another format."""
    converted = ConvertedFolder(folder)
    shown = progress or Silent()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with shown, ThreadPoolExecutor(threads) as pool:
            tensors = list(source.tensors.values())
            shown.begin(sum(tensor.entry.length for tensor in tensors))

            def one(tensor: SourceTensor) -> TensorError:
                found = measure(source, tensor, converted)
                shown.add(tensor.entry.length)
                return found

            errors = tuple(pool.map(one, tensors))
    finally:
        torch.set_num_threads(before)
    return Comparison(str(source.folder), str(folder), converted.form, errors)


def measure(source: Source, tensor: SourceTensor, converted: ConvertedFolder) -> TensorError:
    """Compare one tensor. Sums are float64, over blocks of rows in their order."""
    decoded = converted.decoded(tensor.name, tensor.shape)
    energy = noise = largest = 0.0
    ends = not_finite = worst = 0
    worst_rel = 0.0
    for first, last in _rows(tensor):
        reference = torch.empty(last - first, tensor.entry.columns)
        source.stored(tensor).read_into(range(first, last), range(tensor.entry.columns), reference)
        codes = decoded.read_codes(first, last)
        values = decoded.values(codes, first)
        if decoded.limit:
            magnitudes = _magnitudes(codes)
            ends += int((magnitudes >= decoded.limit).sum())
        not_finite += int((~torch.isfinite(values)).sum())
        error = (values - reference).nan_to_num(0.0, 0.0, 0.0)
        reference.nan_to_num_(0.0, 0.0, 0.0)
        row_noise, row_energy = error.square().sum(1).double(), reference.square().sum(1).double()
        noise += float(row_noise.sum())
        energy += float(row_energy.sum())
        largest = max(largest, float(error.abs().max()))
        relative = torch.where(row_noise > 0, (row_noise / row_energy).sqrt(), 0.0)
        place = int(relative.argmax())
        if float(relative[place]) > worst_rel:
            worst_rel, worst = float(relative[place]), first + place
    elements = tensor.entry.rows * tensor.entry.columns
    rel = math.sqrt(noise / energy) if energy else (math.inf if noise else 0.0)
    sqnr = -20 * math.log10(rel) if 0 < rel < math.inf else (math.inf if rel == 0 else -math.inf)
    share = ends / elements if decoded.limit and elements else None
    stored = decoded.codes.dtype
    return TensorError(tensor.name, stored, elements, sqnr, rel, largest, share, worst, worst_rel, not_finite)


def _magnitudes(codes: torch.Tensor) -> torch.Tensor:
    """Of integers and float8; of codes of e2m1 without their sign."""
    if codes.dtype == torch.uint8:
        return codes & 7
    return codes.to(torch.float32).abs() if codes.is_floating_point() else codes.to(torch.int16).abs()


def _rows(tensor: SourceTensor) -> Iterator[tuple[int, int]]:
    entry = tensor.entry
    if not entry.rows or not entry.columns:
        return
    step = max(2, _ELEMENTS // entry.columns // 2 * 2)
    yield from ((first, min(first + step, entry.rows)) for first in range(0, entry.rows, step))
