"""What the routers of a language model chose, in the port and in the reference, counted over samples.

A *flip* is a decision (one token in one router) where the port takes another set of experts. Whether it is a near tie
or a fault is seen in the replay (see ``replay``), where everything before it was computed with the port's own choices:
there no earlier flip can be what moved the scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from porting.parity.metrics import significant
from porting.parity.routing import Router

Settled = Literal["free run", "replay"]
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Flip:
    """One decision. sample, row, position: of the token. lost, gained: experts of the reference and of the port only.

    gap: how far two scores had to approach each other for it; reach: how far arithmetic may move them.
    """

    kind: Literal["near_tie", "fault"]
    sample: int
    row: int
    position: int
    lost: tuple[int, ...]
    gained: tuple[int, ...]
    gap: float
    reach: float

    def to_json(self) -> dict[str, Any]:
        """The entry of ``flips`` in ``parity.json``."""
        entry = dataclasses.asdict(self)
        return entry | {"lost": list(self.lost), "gained": list(self.gained),
                        "gap": significant(self.gap), "reach": significant(self.reach)}  # fmt: skip


@dataclasses.dataclass
class RouterSums:
    """One router over one sample (or several, merged).

    decisions: tokens. differ: of them, those whose sets differ where each side goes its own way, with what follows from
    earlier flips. near_ties, faults: decisions that differ from what the reference chooses in the replay. tight:
    decisions of the reference that lie within reach of another choice. margin: the smallest of the reference.
    hits, reference_hits: tokens by expert. flipped: flips by expert, lost or gained. noise, energy: of the logits.
    """

    experts: int
    decisions: int = 0
    differ: int = 0
    near_ties: int = 0
    faults: int = 0
    tight: int = 0
    margin: float = float("inf")
    hits: torch.Tensor = dataclasses.field(init=False)
    reference_hits: torch.Tensor = dataclasses.field(init=False)
    flipped: torch.Tensor = dataclasses.field(init=False)
    noise: float = 0.0
    energy: float = 0.0
    flips: list[Flip] = dataclasses.field(default_factory=list)
    samples: int = 0

    def __post_init__(self) -> None:
        self.hits, self.reference_hits, self.flipped = (torch.zeros(self.experts, dtype=torch.int64) for _ in range(3))

    @property
    def untested(self) -> list[int]:
        """Experts that neither side chose: nothing is known about them."""
        return ((self.hits == 0) & (self.reference_hits == 0)).nonzero().flatten().tolist()

    def observe(self, router: Router, reference: torch.Tensor, ids: torch.Tensor, ported_ids: torch.Tensor) -> None:
        """The free run of one sample. reference: logits (T, E); ids, ported_ids: (T, k) of the two sides."""
        mine, theirs = router.chosen(ids), router.chosen(ported_ids)
        self.samples += 1
        self.decisions += len(mine)
        self.differ += int((mine != theirs).any(-1).sum())
        self.reference_hits += mine.sum(0)
        self.hits += theirs.sum(0)
        margin = router.margin(reference)
        if len(margin):
            self.margin = min(self.margin, float(margin.min()))

    def decide(
        self,
        router: Router,
        logits: torch.Tensor,
        ported_logits: torch.Tensor | None,
        ported_ids: torch.Tensor,
        *,
        sequence: int,
        tolerance: float,
    ) -> None:
        """Judge the choices of one sample against logits (T, E) that were computed with all earlier choices forced."""
        reach = router.reach(logits, ported_logits, tolerance)
        self.tight += int((router.margin(logits) <= reach).sum())
        if ported_logits is not None:
            self.noise += float((ported_logits.double() - logits.double()).square().sum())
            self.energy += float(logits.double().square().sum())
        mine, theirs = router.chosen(router.choose(logits)), router.chosen(ported_ids)
        rows = (mine != theirs).any(-1).nonzero().flatten()
        if not len(rows):
            return
        gap = router.gap(logits[rows], ported_ids[rows])
        near = gap <= reach[rows]  # a gap that is NaN is no near tie
        self.near_ties += int(near.sum())
        self.faults += int((~near).sum())
        self.flipped += (mine[rows] != theirs[rows]).sum(0)
        for index in sorted(range(len(rows)), key=lambda i: bool(near[i]))[:_LISTED]:
            token = int(rows[index])
            lost, gained = mine[token] & ~theirs[token], theirs[token] & ~mine[token]
            self.flips.append(
                Flip(
                    kind="near_tie" if near[index] else "fault",
                    sample=0,
                    row=token // sequence,
                    position=token % sequence,
                    lost=tuple(lost.nonzero().flatten().tolist()),
                    gained=tuple(gained.nonzero().flatten().tolist()),
                    gap=_finite(gap[index]),
                    reach=_finite(reach[token]),
                )
            )

    def merge(self, other: RouterSums) -> None:
        """Add another sample; of its flips, faults first, a few are kept."""
        shifted = [dataclasses.replace(flip, sample=flip.sample + self.samples) for flip in other.flips]
        for name in ("decisions", "differ", "near_ties", "faults", "tight", "noise", "energy", "samples"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("hits", "reference_hits", "flipped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.margin = min(self.margin, other.margin)
        self.flips = sorted([*self.flips, *shifted], key=lambda flip: flip.kind != "fault")[:_LISTED]


@dataclasses.dataclass(frozen=True)
class Routing:
    """All routers of a port. sums: by the router's ``ids``; a router that the port has no value for has none.

    settled_by: which run of the reference the outputs are judged against.
    """

    routers: Sequence[Router]
    sums: Mapping[str, RouterSums]
    settled_by: Settled | None = None

    @property
    def decisions(self) -> int:
        """Tokens times routers."""
        return sum(sums.decisions for sums in self.sums.values())

    @property
    def near_ties(self) -> int:
        """Flips that arithmetic explains."""
        return sum(sums.near_ties for sums in self.sums.values())

    @property
    def faults(self) -> int:
        """Flips that nothing explains."""
        return sum(sums.faults for sums in self.sums.values())

    @property
    def flips(self) -> int:
        """Decisions that differ, where each side goes its own way."""
        return sum(sums.differ for sums in self.sums.values())

    @property
    def near_tie_fraction(self) -> float:
        """Share of decisions that flipped at a near tie."""
        return self.near_ties / max(self.decisions, 1)

    @property
    def fault_fraction(self) -> float:
        """Share of decisions that flipped without that excuse."""
        return self.faults / max(self.decisions, 1)

    @property
    def untested(self) -> int:
        """Experts that were never chosen, over all routers."""
        return sum(len(sums.untested) for sums in self.sums.values())

    def counts(self) -> dict[str, Any]:
        """What all routers together have."""
        return {
            "decisions": self.decisions,
            "near_ties": self.near_ties,
            "faults": self.faults,
            "near_tie_fraction": significant(self.near_tie_fraction),
        }

    def to_json(self) -> dict[str, Any]:
        """The ``routing`` entry of ``parity.json``."""
        return {
            **self.counts(),
            "differ": self.flips,
            "settled_by": self.settled_by,
            "routers": [_router_json(router, self.sums.get(router.ids)) for router in self.routers],
        }


def _router_json(router: Router, sums: RouterSums | None) -> dict[str, Any]:
    counted = sums or RouterSums(router.experts)
    return {
        "module": router.module,
        "name": router.ids,
        "value": router.ported_ids,
        "experts": router.experts,
        "chosen": int(router.attributes["k"]),
        "decisions": counted.decisions,
        "differ": counted.differ,
        "near_ties": counted.near_ties,
        "faults": counted.faults,
        "tight": counted.tight,
        "margin_min": significant(counted.margin) if counted.margin < float("inf") else None,
        "logits_rel_l2": significant((counted.noise / counted.energy) ** 0.5) if counted.energy else None,
        "hits": counted.hits.tolist(),
        "reference_hits": counted.reference_hits.tolist(),
        "flipped": counted.flipped.tolist(),
        "untested": counted.untested if counted.decisions else [],
        "flips": [flip.to_json() for flip in counted.flips],
    }


def _finite(value: torch.Tensor) -> float:
    """A number for JSON: what is not finite is beyond every reach."""
    return float(value) if bool(value.isfinite()) else 1e30
