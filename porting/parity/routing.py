"""Which experts a token goes to: the routers of the source, and where the port and the source disagree.

Chosen experts are compared as sets. Two engines that round differently choose differently where scores nearly tie, and
that is no fault; so every router knows how far its scores must move before it chooses as the port did (``gap``), and
how far the two engines may have moved them (``reach``). All tensors here have one row a token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import onnx_ir as ir
import torch

from porting.parity.anchors import Anchor
from porting_kernels import dtypes
from porting_kernels.gating_top_k import SCORES, gating_top_k, gating_weights
from porting_passes import provenance
from porting_passes.canonicalize import Canonicalize
from porting_passes.fuse_gating_top_k import FuseGatingTopK

SPREAD = 6.0
"""Deviations between two scores that noise explains: their difference has sqrt(2) sigma, and 6 sigma are 4.2 of those,
which one pair in 45,000 exceeds."""

_OF_WEIGHTS = ("score", "after_top_k", "renormalize", "scale", "epsilon")


@dataclasses.dataclass(frozen=True)
class Router:
    """One router of the source, with the values of both models that it is compared by.

    module: the user's name for it. logits, weights, ids: values of the source. ported_logits, ported_ids,
    ported_weights: those of the port that stand for them, None where none does. bias: (E,) or (1,) float32.
    attributes: of ``GatingTopK``.
    """

    module: str
    logits: str
    weights: str
    ids: str
    bias: torch.Tensor
    attributes: Mapping[str, Any]
    experts: int
    ported_logits: str | None = None
    ported_weights: str | None = None
    ported_ids: str | None = None

    def names(self, side: Literal["source", "port"]) -> tuple[str | None, str | None, str | None]:
        """Names of logits, weights and ids in one of the two models."""
        if side == "source":
            return self.logits, self.weights, self.ids
        return self.ported_logits, self.ported_weights, self.ported_ids

    @property
    def can_be_forced(self) -> bool:
        """Whether the port has all three values."""
        return None not in self.names("port")

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """The experts (T, k) int64 that the router chooses from logits (T, E)."""
        chosen: torch.Tensor = gating_top_k(logits, self.bias, **self.attributes)[1]
        return chosen

    def weights_of(self, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The weights (T, k) float32 that the router gives to experts chosen elsewhere."""
        return gating_weights(logits, ids, **{k: v for k, v in self.attributes.items() if k in _OF_WEIGHTS})

    def biased(self, logits: torch.Tensor) -> torch.Tensor:
        """The scores (T, E) float32 that are compared with each other, groups aside."""
        wide = logits.float()
        scores = wide if self.attributes.get("after_top_k") else SCORES[self.attributes.get("score", "softmax")](wide)
        return scores + self.bias

    def chosen(self, ids: torch.Tensor) -> torch.Tensor:
        """Sets of experts as rows of flags (T, E) bool."""
        flags = torch.zeros(len(ids), self.experts, dtype=torch.bool)
        return flags.scatter_(1, ids.to(torch.int64).clamp(0, self.experts - 1), True)

    def margin(self, logits: torch.Tensor) -> torch.Tensor:
        """How near each token is to another choice (T,): the distance of the last score that is in from the first that
        is out, among experts of the chosen groups and among groups (there shared by the scores that make a group's).
        """
        biased = self.biased(logits)
        ids = self.choose(logits)
        inside, groups = self._inside(self.chosen(ids), biased)
        best = biased.masked_fill(~inside, -math.inf).sort(dim=-1, descending=True).values
        k = self.attributes["k"]
        between = best[:, k - 1] - best[:, k] if k < self.experts else torch.full((len(ids),), math.inf)
        if groups is None:
            return between
        scores = self._group_scores(biased)
        low, high = scores.masked_fill(~groups, math.inf).amin(-1), scores.masked_fill(groups, -math.inf).amax(-1)
        return torch.minimum(between, (low - high) / self._group_top)

    def gap(self, logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """How far two scores must approach each other before these logits lead to the choice ``ids`` (T,); 0 where they
        do. Which groups the choice was made from is not known where it needs fewer of them: the best case counts.
        """
        biased, chosen = self.biased(logits), self.chosen(ids)
        lowest = biased.masked_fill(~chosen, math.inf).amin(-1, keepdim=True)
        if not self._limited:
            return (biased.masked_fill(chosen, -math.inf).amax(-1, keepdim=True) - lowest).clamp(min=0.0)[:, 0]
        # By group: how far the best expert that was left out is above the worst that was taken.
        left_out = self._grouped(biased.masked_fill(chosen, -math.inf)).amax(-1)
        within = (left_out - lowest).clamp(min=0.0)
        used = self._grouped(chosen).any(-1)
        scores = self._group_scores(biased)
        mask = float(self.attributes.get("mask_value", -math.inf))
        floor = torch.maximum(torch.where(used, within, 0.0).amax(-1), (mask - lowest[:, 0]).clamp(min=0.0))
        count = int(self.attributes["k_group"])
        best = torch.full((len(ids),), math.inf)
        for limit in within.masked_fill(used, 0.0).unbind(-1):
            able = used | (within <= limit[:, None])
            ranked = scores.masked_fill(~able, -math.inf).masked_fill(used, math.inf)
            groups = used | torch.zeros_like(used).scatter_(1, ranked.topk(count, dim=-1).indices, True)
            kept = scores.masked_fill(~groups, math.inf).amin(-1)
            rest = scores.masked_fill(groups, -math.inf).amax(-1)
            needed = torch.maximum(torch.where(groups, within, 0.0).amax(-1), (rest - kept) / self._group_top)
            best = torch.minimum(best, torch.maximum(needed, floor))
        return best

    def reach(self, logits: torch.Tensor, ported: torch.Tensor | None, tolerance: float) -> torch.Tensor:
        """How far arithmetic may move two scores of a token towards each other (T,).

        `SPREAD` times the deviation of the token's scores as it was measured (root mean square over the experts), but
        no more of it than a relative error of the logits of ``tolerance`` makes: a port whose logits are wrong does not
        excuse itself. ported: its logits, None where it has no such value; then the tolerance alone counts.
        """
        wide = logits.float()
        slope = 1.0 if self.attributes.get("after_top_k") else 0.25  # the steepest that sigmoid and softmax are
        allowed = tolerance * slope * (wide - wide.mean(-1, keepdim=True)).square().mean(-1).sqrt()
        # Noise that float32 itself leaves in scores of this size, however small the logits are.
        allowed = allowed + torch.finfo(torch.float32).eps * self.biased(logits).abs().amax(-1)
        if ported is None:
            return SPREAD * allowed
        measured = (self.biased(ported) - self.biased(logits)).square().mean(-1).sqrt()
        return SPREAD * torch.minimum(allowed, measured)

    @property
    def _group_top(self) -> int:
        return int(self.attributes.get("group_top", 1))

    @property
    def _limited(self) -> bool:
        return int(self.attributes.get("k_group", 1)) < int(self.attributes.get("groups", 1))

    def _grouped(self, x: torch.Tensor) -> torch.Tensor:
        groups = int(self.attributes["groups"])
        return x.reshape(*x.shape[:-1], groups, self.experts // groups)

    def _group_scores(self, biased: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self._grouped(biased).topk(self._group_top, dim=-1).values.sum(-1)
        return scores

    def _inside(self, chosen: torch.Tensor, biased: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The experts among which the router itself chooses (T, E), and their groups (T, G); None without limit."""
        if not self._limited:
            return torch.ones_like(chosen), None
        best = self._group_scores(biased).sort(dim=-1, descending=True, stable=True).indices
        groups = torch.zeros(best.shape, dtype=torch.bool)
        groups.scatter_(1, best[:, : int(self.attributes["k_group"])], True)
        return groups.repeat_interleave(biased.shape[-1] // best.shape[-1], dim=-1), groups


def find(source: ir.Model, anchors: Sequence[Anchor]) -> list[Router]:
    """The routers of a source, in its order, by the fusion that makes ``GatingTopK`` of them on a copy.

    source: the unrewritten import; its graph is not changed, and of its weights only the routers' biases are read.
    """
    fused = source.clone()
    Canonicalize()(fused)
    FuseGatingTopK()(fused)
    ported = {anchor.source: anchor.value for anchor in anchors}
    routers = []
    for node in fused.graph:
        if (node.domain, node.op_type) != ("porting", "GatingTopK"):
            continue
        logits, bias = node.inputs
        names = [_source_name(value) for value in (logits, *node.outputs)]
        shape = None if logits is None else logits.shape
        if None in names or bias is None or bias.const_value is None or shape is None or not isinstance(shape[1], int):
            continue
        logits_name, weights_name, ids_name = (name or "" for name in names)
        routers.append(
            Router(
                module=provenance.of(node.outputs[1]).module or ids_name,
                logits=logits_name,
                weights=weights_name,
                ids=ids_name,
                bias=dtypes.to_torch(bias.const_value.numpy()).float(),
                attributes={name: attribute.value for name, attribute in node.attributes.items()},
                experts=shape[1],
                ported_logits=ported.get(logits_name),
                ported_weights=ported.get(weights_name),
                ported_ids=ported.get(ids_name),
            )
        )
    return routers


def _source_name(value: ir.Value | None) -> str | None:
    origin = provenance.Provenance() if value is None else provenance.of(value)
    return origin.sources[0] if origin.equal and origin.sources else None
