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
    by_logits = {router.logits: router for router in routers}
    by_ids = {router.ids: router for router in routers if router.ids in choices}
    by_weights = {router.weights: router for router in routers if router.ids in choices}
    logits: Values = {}
    kept: Values = {}

    def forced(router: Router) -> torch.Tensor:
        own = router.chosen(router.choose(logits[router.ids]))
        return (own != router.chosen(choices[router.ids])).any(-1, keepdim=True)

    def tap(value: ir.Value, tensor: torch.Tensor) -> torch.Tensor | None:
        name = value.name or ""
        if name in keep:
            kept[name] = tensor
        if name in by_logits:
            logits[by_logits[name].ids] = tensor
        router = by_ids.get(name)
        if router is not None:
            return torch.where(forced(router), choices[name].to(tensor.dtype), tensor)
        router = by_weights.get(name)
        if router is not None:
            weights = router.weights_of(logits[router.ids], choices[router.ids].to(torch.int64))
            return torch.where(forced(router), weights.to(tensor.dtype), tensor)
        return None

    outputs = reference.run(inputs, tap=tap, wanted={*keep, *by_logits, *by_ids, *by_weights})
    return Replayed(outputs, logits, kept)
