"""Making a run take experts that another run chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from porting.parity.routing import Router

Side = Literal["source", "port"]


@dataclasses.dataclass
class Forcing:
    """State of one run in which routers are forced.

    choices: experts (T, k) by the router's ``ids``. Only rows whose set differs from what the run would choose are
    replaced, by these experts and by the weights that the run's own logits give them; the others keep their bits.
    logits, flips: of each router that was met, by its ``ids``; flips are the rows that were replaced.
    """

    routers: Sequence[Router]
    choices: Mapping[str, torch.Tensor]
    side: Side
    logits: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    flips: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        forced = [router for router in self.routers if router.ids in self.choices]
        self._by_logits = {router.names(self.side)[0]: router for router in self.routers}
        self._by_weights = {router.names(self.side)[1]: router for router in forced}
        self._by_ids = {router.names(self.side)[2]: router for router in forced}

    @property
    def wanted(self) -> set[str]:
        """Names of the values that :meth:`tap` has to see."""
        return {name for names in (self._by_logits, self._by_weights, self._by_ids) for name in names if name}

    def tap(self, name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        """What takes the value's place; None for most. Weights may come before or after the ids."""
        if name in self._by_logits:
            self.logits[self._by_logits[name].ids] = tensor
        if (router := self._by_ids.get(name)) is not None:
            differ = self._differ(router, tensor)
            self.flips[router.ids] = int(differ.sum())
            return torch.where(differ, self.choices[router.ids].to(tensor.dtype), tensor)
        if (router := self._by_weights.get(name)) is not None:
            logits = self.logits[router.ids]
            weights = router.weights_of(logits, self.choices[router.ids].to(torch.int64))
            return torch.where(self._differ(router, router.choose(logits)), weights.to(tensor.dtype), tensor)
        return None

    def _differ(self, router: Router, ids: torch.Tensor) -> torch.Tensor:
        return (router.chosen(ids) != router.chosen(self.choices[router.ids])).any(-1, keepdim=True)
