"""What each line of a backend's numerics does to the outputs.

The port runs with exact numerics and then with one line of the table switched on at a time, so that a difference
between the meaning of the operators and the chip's arithmetic can be blamed on a line and on its source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import onnx_ir as ir
import torch

from porting.parity.metrics import Accumulator, Metrics, significant
from porting.parity.sampling import Sample, fit
from porting.simulation.interpreter import Interpreter
from porting.simulation.weight_cache import WeightCache
from porting_kernels.numerics import EXACT, Numerics


class NumericsLine(Protocol):
    """One line of a numerics table: the field of `Numerics` that it sets, with the place it was found."""

    @property
    def field(self) -> str:
        """Name of the field."""

    @property
    def value(self) -> Any:
        """What the backend does instead of the exact meaning."""

    @property
    def source(self) -> str:
        """Where that is written or was measured."""

    @property
    def evidence(self) -> str:
        """Doc, vendor table, measured, assumed ..."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """One line switched on, output by output: against exact numerics, and against the reference.

    exact: exact numerics against the reference, to compare with.
    """

    line: NumericsLine
    against_exact: Mapping[str, Metrics]
    against_reference: Mapping[str, Metrics]
    exact: Mapping[str, Metrics]

    def to_json(self) -> dict[str, Any]:
        """The entry of ``numerics`` in ``parity.json``."""
        return {
            "field": self.line.field,
            "value": self.line.value,
            "source": self.line.source,
            "evidence": self.line.evidence,
            "outputs": [
                {
                    "name": name,
                    "rel_l2": significant(change.rel_l2),
                    "max_abs": significant(change.max_abs),
                    "sqnr_db": significant(self.against_reference[name].sqnr_db),
                    "sqnr_db_exact": significant(self.exact[name].sqnr_db),
                }
                for name, change in self.against_exact.items()
            ],
        }


@dataclasses.dataclass
class EffectSums:
    """Sums of one or several samples: exact against the reference, and for each line against both."""

    exact: dict[str, Accumulator]
    changes: list[dict[str, Accumulator]]
    references: list[dict[str, Accumulator]]

    def merge(self, other: EffectSums) -> None:
        """Add another sample."""
        merge_all(self.exact, other.exact)
        for mine, theirs in zip(self.changes, other.changes, strict=True):
            merge_all(mine, theirs)
        for mine, theirs in zip(self.references, other.references, strict=True):
            merge_all(mine, theirs)


class Attribution:
    """Runs the port once exactly and once for each line; holds no state of a run."""

    def __init__(self, ported: ir.Model, lines: Sequence[NumericsLine], *, memory: WeightCache | None = None) -> None:
        self._ported, self._lines = ported, tuple(lines)
        self._exact = Interpreter(ported, memory=memory)
        # A line that says what the operators mean anyway changes nothing: the exact run stands for it.
        numerics = [single(line) for line in self._lines]
        self._single = [self._exact if n == EXACT else Interpreter(ported, numerics=n, memory=memory) for n in numerics]

    def run(
        self,
        sample: Sample,
        reference: Mapping[str, torch.Tensor],
        exact: Mapping[str, torch.Tensor] | None = None,
    ) -> EffectSums:
        """One sample; reference: the outputs of the source for it. exact: those of the port, where they are known."""
        inputs = fit(self._ported, sample)
        if exact is None:
            exact = self._exact.run(inputs)
        sums = EffectSums(compare(reference, exact), [], [])
        for interpreter in self._single:
            outputs = exact if interpreter is self._exact else interpreter.run(inputs)
            sums.changes.append(compare(exact, outputs))
            sums.references.append(compare(reference, outputs))
        return sums

    def result(self, sums: EffectSums) -> list[Effect]:
        """One effect a line."""
        exact = finish(sums.exact)
        return [
            Effect(line, finish(change), finish(reference), exact)
            for line, change, reference in zip(self._lines, sums.changes, sums.references, strict=True)
        ]


def single(line: NumericsLine) -> Numerics:
    """Exact numerics with one line switched on."""
    return dataclasses.replace(EXACT, **{line.field: line.value})


def compare(reference: Mapping[str, torch.Tensor], result: Mapping[str, torch.Tensor]) -> dict[str, Accumulator]:
    """Sums for every tensor of ``result``, by name."""
    sums = {}
    for name, tensor in result.items():
        if isinstance(tensor, torch.Tensor):
            sums[name] = Accumulator()
            sums[name].update(reference[name], tensor, where=f"output {name}")
    return sums


def merge_all(mine: dict[str, Accumulator], theirs: Mapping[str, Accumulator]) -> None:
    """Add the sums of another sample, name by name."""
    for name, sums in theirs.items():
        mine.setdefault(name, Accumulator()).merge(sums)


def finish(sums: Mapping[str, Accumulator]) -> dict[str, Metrics]:
    """The metrics of merged sums."""
    return {name: accumulator.metrics() for name, accumulator in sums.items()}
