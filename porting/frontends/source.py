"""What the user brings, in one form: a model with provenance, a digest, and an independent reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class Source:
    """A source after import.

    text: as the user wrote it. kind: ``onnx``, ``pt2`` or ``factory``. digest: sha256 over what the model computes.
    reference: the source run on CPU in float32 by something that is not our interpreter; graph inputs by name in,
    graph outputs by name out. reference_name: what that something is.
    example_inputs: arrays by input name that came with the source (one sample), or None.
    dims: intervals of symbolic dimensions that came with the source.
    not_in_graph: parts of the source that the graph does not hold.
    """

    text: str
    kind: str
    model: ir.Model
    digest: str
    reference: Callable[[Mapping[str, np.ndarray]], Arrays]
    reference_name: str
    example_inputs: Arrays | None = None
    dims: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    not_in_graph: Sequence[str] = ()
