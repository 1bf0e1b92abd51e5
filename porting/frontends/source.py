"""What the user brings, in one form: a model with provenance, a digest, and a reference."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reference:
    """The source run on CPU in float32: graph inputs by name in, graph outputs by name out.

    name: what runs it, for people. May be called from several threads.
    """

    name: str
    run: Callable[[Mapping[str, np.ndarray]], Arrays]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """The outputs for one sample."""
        return self.run(inputs)


@dataclasses.dataclass
class Source:
    """A source after import.

    text: as the user wrote it. kind: ``onnx``, ``pt2``, ``factory`` or
    ``checkpoint``. digest: sha256 over what the model computes.
    open_reference: makes the reference, which may cost as much as loading the model; see ``reference``.
    example_inputs: arrays by input name that came with the source (one sample), or None.
    dims: intervals of symbolic dimensions that came with the source.
    not_in_graph: parts of the source that the graph does not hold.
    tokenizer: text to token ids, where the source is a language model that brings one.
    family: transformers' ``model_type`` of a checkpoint, empty for other sources.
    block_scales: reads the scales of 8-bit weights and says what they are, where the source has any.
    """

    text: str
    kind: str
    model: ir.Model
    digest: str
    open_reference: Callable[[], Reference]
    example_inputs: Arrays | None = None
    dims: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    not_in_graph: Sequence[str] = ()
    tokenizer: Callable[[str], list[int]] | None = None
    family: str = ""
    block_scales: Callable[[], dict[str, Any]] | None = None

    @property
    def is_language_model(self) -> bool:
        """Whether input_ids and logits are what their names say."""
        return self.kind == "checkpoint"

    @functools.cached_property
    def reference(self) -> Reference:
        """The reference, opened once: something that is not our interpreter wherever there is such a thing."""
        return self.open_reference()
