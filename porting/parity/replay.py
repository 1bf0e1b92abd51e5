"""Forced-routing replay: the reference once more, with the experts that the port chose.

After a router chose otherwise, everything behind it differs, however well the port computes: that token from this layer
on, and later tokens by attention. So the reference is run again, in float32 on the unrewritten import, and where the
port took another set of experts it takes that set too, with weights recomputed from its own scores. What still differs
then is arithmetic, and a choice that is far from a tie in this run has no earlier flip to blame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir
import torch

from porting.parity.forcing import Forcing
from porting.parity.routing import Router
from porting.simulation.interpreter import Interpreter

Values = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Replayed:
    """outputs: by graph output. logits: of each router, by its ``ids``. kept: further values that were asked for."""

    outputs: Values
    logits: Values
    kept: Values


def replay(
    reference: Interpreter,
    inputs: Mapping[str, torch.Tensor],
    routers: Sequence[Router],
    choices: Mapping[str, torch.Tensor],
    *,
    keep: Collection[str] = (),
) -> Replayed:
    """Run the reference with forced choices.

    choices: the port's experts (T, k) by the router's ``ids``; rows that are the reference's own choice, in any order,
    are left as they are, so that a replay without a flip gives the bits of the free run. keep: names of source values.
    """
    forcing = Forcing(routers, choices, "source")
    kept: Values = {}

    def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
        name = value.name or ""
        if name in keep:
            kept[name] = tensor
        return forcing.tap(name, tensor)

    outputs = reference.run(inputs, tap=tap, wanted={*keep, *forcing.wanted})
    return Replayed(outputs, forcing.logits, kept)
