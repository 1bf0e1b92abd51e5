"""Parity of a port that lies on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir

from porting import frontends, manifest
from porting.data import Data, open_data
from porting.errors import InvalidInputError
from porting.frontends import Source
from porting.measurement import measure_port
from porting.parity.budgets import load_budget
from porting.parity.result import Parity
from porting.parity.verdict import Inputs
from porting.port_folder import INPUTS, PARITY, PortFolder
from porting.runner.checks import runner_checks, with_checks
from porting.runner.protocol import Runner
from porting_passes.bind_shapes import bind_shapes


@dataclasses.dataclass(frozen=True)
class Opened:
    """A port beside what it was made from. model: the unrewritten import with the port's shapes."""

    port: PortFolder
    source: Source
    model: ir.Model

    @property
    def dims(self) -> dict[str, tuple[int, int]]:
        """Intervals of the symbols that the port keeps."""
        return {name: (low, high) for name, (low, high) in self.port.manifest["dims"].items()}

    def data(self, inputs: Path | None) -> Data:
        """The samples in ``inputs``, or those that the port keeps as evidence."""
        evidence = self.port.path / INPUTS
        if inputs is None and not evidence.exists():
            raise InvalidInputError(f"{self.port.path} holds no inputs to compare on", fix="--inputs DATA")
        return open_data(inputs or evidence, self.source, self.model.graph.inputs, self.dims)


def open_port(out: Path, source: str | None = None) -> Opened:
    """A port and its source; source overrides the recorded path.

    Raises InvalidInputError when a file of the port or the source is not what the port was made from.
    """
    port = PortFolder.open(out)
    manifest.check_files(out, port.manifest)
    loaded = frontends.load(source or port.manifest["source"]["path"])
    recorded = port.manifest["source"]["digest"]
    if f"sha256:{loaded.digest}" != recorded:
        raise InvalidInputError(
            f"source {loaded.text} is not what {out} was made from",
            required=recorded,
            met=f"sha256:{loaded.digest}",
            fix="--source PATH of the original, or port again",
        )
    return Opened(port, loaded, _as_ported(loaded, port))


def verify(
    out: Path,
    *,
    source: str | None = None,
    inputs: Path | None = None,
    budget: Path | None = None,
    memory: int | None = None,
    threads: int = 1,
    runner: str | None = None,
) -> Parity:
    """Measure the port in ``out`` again, from its files alone: nothing that ``port`` had in memory takes part.

    source overrides the recorded path; inputs the recorded evidence. runner: a command line of the runner protocol,
    whose outputs are held against the simulation as well. Raises InvalidInputError when a file of the port
    or the source is not what the port was made from.
    """
    opened = open_port(out, source)
    samples, limits = opened.data(inputs), load_budget(budget)
    parity = measure_port(
        opened.port,
        opened.source,
        opened.model,
        samples,
        inputs="user" if inputs is not None else _whose(out),
        budget=limits,
        memory=memory,
        threads=threads,
    )
    if runner is None:
        return parity
    return with_checks(parity, runner_checks(Runner(runner), opened.port, samples, limits))


def _as_ported(source: Source, port: PortFolder) -> ir.Model:
    """The import with the input shapes of the port."""
    model = source.model.clone()
    shapes = {entry["name"]: list(entry["shape"]) for entry in port.manifest["inputs"]}
    current = {v.name or "": v for v in model.graph.inputs}
    wanted = {
        name: [d if isinstance(d, int) else None for d in shape]
        for name, shape in shapes.items()
        if name in current and current[name].shape is not None and not current[name].is_initializer()
    }
    bind_shapes(model, wanted)
    return model


def _whose(out: Path) -> Inputs:
    import json

    whose: Inputs = json.loads((out / PARITY).read_text(encoding="utf-8"))["inputs"]
    return whose
