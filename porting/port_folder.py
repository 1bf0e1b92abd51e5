"""A port read back from disk: its manifest, its files, and the model that the simulation runs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from porting import backends, manifest
from porting.backends import Backend, Surface
from porting.emit import WEIGHTS
from porting.errors import InvalidInputError
from porting.parity import anchors
from porting.simulation.executable import executable
from porting_kernels.numerics import EXACT, REF64, Numerics
from porting_passes.provenance import Provenance

MODEL = "model.onnx"
TWIN = "twin.onnx"
RANGES = "quantization.json"
PROVENANCE = "provenance.jsonl"
INPUTS = "evidence/inputs"
REFERENCE = "evidence/reference.json"
PARITY = "parity.json"


@dataclasses.dataclass(frozen=True)
class PortFolder:
    """path: OUT. manifest: its ``port.json``."""

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> PortFolder:
        """Read a port. InvalidInputError when it is none, or when a file that the simulation reads has changed."""
        read = manifest.read(path)
        manifest.check_files(path, read, (MODEL, WEIGHTS, RANGES, PROVENANCE))
        return cls(path, read)

    @functools.cached_property
    def backend(self) -> Backend:
        """The backend it was made for, as registered now."""
        return backends.get(self.manifest["backend"])

    @functools.cached_property
    def surface(self) -> Surface:
        """Its surface."""
        return self.backend.surface(self.manifest["surface"])

    @functools.cached_property
    def executable(self) -> ir.Model:
        """model.onnx as the simulation runs it. InvalidInputError when its weights were left out."""
        if self.manifest["weights"] == "none":
            raise InvalidInputError(f"{self.path} holds no weights", fix="port again without --weights none")
        streamed = self.manifest["source"]["kind"] == "checkpoint"
        return executable(self.path / MODEL, self.surface, self.path / RANGES, streamed=streamed)

    def numerics(self, mode: str) -> Numerics:
        """``exact``, ``backend`` (the chip's arithmetic) or ``ref64``."""
        return {"exact": EXACT, "ref64": REF64}.get(mode) or self.backend.numerics.numerics()

    @functools.cached_property
    def origins(self) -> dict[str, Provenance]:
        """Provenance by value name."""
        return anchors.read(self.path / PROVENANCE)

    @property
    def stock_file(self) -> Path:
        """What stock onnxruntime runs: the twin where there is one, else the model."""
        twin = self.path / TWIN
        return twin if twin.exists() else self.path / MODEL
