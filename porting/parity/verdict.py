"""From measurements and limits to an answer.

pass: every limit holds, on inputs that mean something. fail: one does not. ambiguous: a difference that is no proof of
a fault (an integer that may be a near tie, an overflow that no output notices). not_measured: nothing to judge, or
synthetic inputs, which can show a fault but never the absence of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from porting.parity.budgets import Budget, Limit, Question
from porting.parity.experts import Routing
from porting.parity.fidelity import Codes, Fidelity
from porting.parity.language import LanguageMetrics
from porting.parity.layers import Layer
from porting.parity.metrics import Metrics, significant

Verdict = Literal["pass", "fail", "ambiguous", "not_measured"]
Inputs = Literal["user", "shipped text", "synthetic"]
_SEVERITY: Sequence[Verdict] = ("pass", "not_measured", "ambiguous", "fail")

# In this many integers a straddled border is expected by chance; a share of a handful says nothing.
_TIES_ALWAYS_ALLOWED = 2

SYNTHETIC = "the inputs are synthetic: they can show a fault, not the absence of one; --inputs DATA gives real ones"


@dataclasses.dataclass(frozen=True)
class Check:
    """One limit held against one measured value.

    question: reference, fidelity, outputs, routing, isolated, overflow or baseline. subject: the output or layer.
    where: what the user can open. source: where the limit comes from.
    """

    question: str
    subject: str
    metric: str
    verdict: Verdict
    required: str
    met: float | str | None
    where: str
    source: str

    def sentence(self) -> str:
        """The check in one line for people."""
        at = f", at {self.where}" if self.where != self.subject else ""
        return f"{self.question} {self.subject}: {self.metric} required {self.required}, met {self.met}{at}"

    def to_json(self) -> dict[str, Any]:
        """The entry of ``checks`` in ``parity.json``."""
        entry = dataclasses.asdict(self)
        entry["met"] = significant(self.met) if isinstance(self.met, float) else self.met
        return entry


class Judge:
    """Applies one budget to the measurements of one port."""

    def __init__(self, budget: Budget, *, scheme: str, dtype: str) -> None:
        self._budget, self._scheme, self._dtype = budget, scheme, dtype

    def values(self, question: Question, metrics: Mapping[str, Metrics], where: str) -> list[Check]:
        """Reference, fidelity or scheme error at the graph outputs; where: what was compared with what."""
        checks = []
        for name, measured in metrics.items():
            made = self._value(question, name, measured, f"output {name}, {where}")
            # That nothing is NaN says nothing about how near the numbers are.
            if all(check.metric == "nonfinite_count" for check in made):
                required = f"a limit for scheme {self._scheme} and dtype {self._dtype}"
                made.append(Check(question, name, "limit", "not_measured", required, "no limit", where, "the budget"))
            checks += made
        return checks

    def language(self, name: str, measured: LanguageMetrics, where: str) -> list[Check]:
        """Divergence and agreement of an output that holds logits."""
        return [
            _check(limit, name, float(met), where)
            for limit in self._limits("outputs", name)
            if (met := getattr(measured, limit.metric, None)) is not None
        ]

    def routing(self, routing: Routing) -> list[Check]:
        """Faults of every router; near ties where they are what the outputs were excused with."""
        checks = []
        for router in routing.routers:
            sums = routing.sums.get(router.ids)
            if router.ported_ids is None:
                required, met = "a value of the port that stands for its choice", "none"
                checks.append(Check("routing", router.module, "aligned", "not_measured", required, met, router.ids, ""))
            for limit in self._limits("routing", router.module):
                if limit.metric == "fault_fraction" and sums is not None and sums.decisions:
                    checks.append(_check(limit, router.module, sums.faults / sums.decisions, router.module))
        if routing.settled_by == "replay":
            for limit in self._limits("routing", "model"):
                if limit.metric == "near_tie_fraction":
                    made = _check(limit, "model", routing.near_tie_fraction, "every router")
                    # Too many for noise, and none of them proves a fault.
                    checks.append(dataclasses.replace(made, verdict="pass" if made.verdict == "pass" else "ambiguous"))
        return checks

    def fidelity(self, fidelity: Fidelity) -> list[Check]:
        """Outputs and integer codes against the independent engine."""
        if fidelity.not_measured is not None:
            return [
                Check("fidelity", "model", "run", "not_measured", fidelity.against, fidelity.not_measured, "model", "")
            ]
        checks = self.values("fidelity", fidelity.outputs, f"simulation against {fidelity.against}")
        if fidelity.routing is not None and fidelity.routing.decisions:
            checks += [
                _check(line, "routing", getattr(fidelity.routing, line.metric), f"routers of {fidelity.against}")
                for line in self._limits("fidelity", "routing")
                if line.metric in ("near_tie_fraction", "fault_fraction")
            ]
        total = Codes()
        for codes in fidelity.codes.values():
            total.merge(codes)
        worst = max(fidelity.codes, key=lambda name: fidelity.codes[name].mismatches, default="")
        limits = {m.metric: m for m in self._limits("fidelity", "integer codes")}
        if total.count and (limit := limits.get("code_mismatch_fraction")):
            met = total.mismatches / total.count
            checks.append(_check(limit, "integer codes", met, worst if total.mismatches else "every quantizer"))
        if total.count and (limit := limits.get("far_code_fraction")):
            checks.append(
                _check(limit, "integer codes", total.far / total.count, worst if total.far else "every quantizer")
            )
        if total.count and (limit := limits.get("tie_fraction")):
            met = max(0, total.ties - _TIES_ALWAYS_ALLOWED) / total.count
            checks.append(_check(limit, "integer codes", met, "every quantizer"))
        return checks

    def layers(self, layers: Iterable[Layer]) -> list[Check]:
        """The isolated view; values that overflow are left to :meth:`overflows`.

        A layer that computes with no integer codes has no scheme, whatever the scheme of the port is.
        """
        checks = []
        for layer in layers:
            if layer.isolated is None or not layer.isolated.compared:
                continue
            name, place = layer.anchor.source, layer.anchor.place
            judge = self if layer.quantized else Judge(self._budget, scheme="none", dtype=self._dtype)
            checks += judge._value("isolated", name, layer.isolated, place)
            if layer.spread is not None:
                checks += [
                    _check(limit, name, float(met), place)
                    for limit in judge._limits("isolated", name)
                    if (met := getattr(layer.spread, limit.metric, None)) is not None
                ]
        return checks

    def overflows(self, layers: Iterable[Layer], outputs_hold: bool) -> list[Check]:
        """Layers that are finite in the reference only. Ambiguous as long as no output notices, else a fault."""
        return [
            Check(
                question="overflow",
                subject=layer.anchor.source,
                metric="reference_max",
                verdict="ambiguous" if outputs_hold else "fail",
                required=f"<= {layer.limit:g}",
                met=layer.accumulated.reference_max,
                where=layer.anchor.place,
                source=f"largest finite value of {layer.dtype}",
            )
            for layer in layers
            if layer.overflows and layer.limit is not None
        ]

    def _integers(self, question: Question, name: str, measured: Metrics, where: str, limits: Sequence[Limit]) -> Check:
        """Integers that differ: excused by nothing up to the limit unless the user says so, a fault beyond it."""
        limit = next((m for m in limits if m.metric == "mismatch_fraction"), None)
        met = measured.mismatch_fraction or 0.0
        # One integer that differs may be a near tie however few there are: it is no share of anything.
        beyond = max(0, (measured.mismatches or 0) - _TIES_ALWAYS_ALLOWED) / max(measured.count, 1)
        if limit is not None and (limit.user or not limit.bound or not limit.holds(beyond)):
            return _check(limit, name, met, where)
        verdict: Verdict = "ambiguous" if met else "pass"
        required = "near ties only" if limit is None or limit.bound else limit.required
        return Check(
            question, name, "mismatch_fraction", verdict, required, met, where, limit.source if limit else "near ties"
        )

    def _limits(self, question: Question, name: str) -> list[Limit]:
        return self._budget.of(question, scheme=self._scheme, dtype=self._dtype, name=name)

    def _value(self, question: Question, name: str, measured: Metrics, where: str) -> list[Check]:
        limits = self._limits(question, name)
        if not measured.compared and not measured.nonfinite_count:
            none = f"{measured.count} elements, none of them finite" if measured.count else "no elements"
            return [Check(question, name, "compared", "not_measured", "elements to compare", none, where, "")]
        if measured.mismatches is not None:
            return [self._integers(question, name, measured, where, limits)]
        checks = []
        for limit in limits:
            met = getattr(measured, limit.metric, None)
            if met is not None:
                checks.append(_check(limit, name, float(met), where))
        return checks


def _check(limit: Limit, subject: str, met: float, where: str) -> Check:
    verdict: Verdict = "pass" if limit.holds(met) else "fail"
    return Check(limit.question, subject, limit.metric, verdict, limit.required, met, where, limit.source)


def worst(checks: Iterable[Check]) -> Verdict:
    """The gravest verdict of some checks; not_measured when there are none."""
    return max((check.verdict for check in checks), key=_SEVERITY.index, default="not_measured")


def overall(checks: Sequence[Check], *, inputs: Inputs, samples: int) -> tuple[Verdict, list[str]]:
    """The verdict on the port, with the reasons why it is not ``pass``."""
    reasons = [check.sentence() for check in checks if check.verdict != "pass"]
    found = worst(checks)
    if samples == 0:
        return "not_measured", ["no samples were compared", *reasons]
    if found != "fail" and inputs == "synthetic":
        return "not_measured", [SYNTHETIC, *reasons]
    return found, reasons
