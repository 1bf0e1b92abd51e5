"""Every node in a form that the surface accepts, or every reason why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any, Literal

import onnx_ir as ir

from porting_passes import provenance
from porting_passes.builder import BuildError
from porting_passes.convert_opset import ConvertOpset
from porting_passes.cost import NODE, node_cost
from porting_passes.decomposition import Decomposition, build, decompose_node
from porting_passes.decompositions import by_operator
from porting_passes.inference import attribute_key, type_key
from porting_passes.inline_body import inlining
from porting_passes.legality import Dims, Illegal, Legal, Reason, Unknown, check
from porting_passes.node_facts import used
from porting_passes.node_view import filled
from porting_passes.operator_set import OperatorSet, qualified
from porting_passes.rewrite import Applied
from porting_passes.splice import Names, discard

__all__ = ["Failure", "Legalize", "LegalizeResult", "Reason", "failure_of"]

MAX_DEPTH = 8
"""Decompositions inside decompositions; the longest chain of ours (attention to fixed operators) has five."""
_STEP = NODE / 64
"""Price of a rewrite itself: of two ways to the same nodes the shorter wins, and following the plans always ends."""
_ALLOWED_UNKNOWN = 1e18
"""Cost of a node that is let through: any legal form is cheaper."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A node without a legal form. candidates: (rewrite, why it does not help). place: in the user's names."""

    node: str
    operator: str
    op_type: str
    verdict: Literal["illegal", "unknown"]
    reasons: tuple[Reason, ...]
    candidates: tuple[tuple[str, str], ...]
    place: str


@dataclasses.dataclass
class LegalizeResult(ir.passes.PassResult):
    """applied: decompositions used. failures: every node without a legal form. allowed: unknown, but let through."""

    applied: list[Applied] = dataclasses.field(default_factory=list)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    allowed: list[Failure] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The cheapest acceptable form of a node. choice: None for the node as it is; cost: None where there is no form."""

    cost: float | None
    choice: Decomposition | None = None
    tried: tuple[tuple[str, str], ...] = ()


class Legalize(ir.passes.InPlacePass):
    """Replace nodes that the surface does not accept by the cheapest form that it does.

    1. A node is legal: leave it.
    2. It is not: of the decompositions of its operator (its own function body last) take the one whose nodes are all
       legal, or have such a form themselves, at the least cost (bytes moved, arithmetic, launches).
    3. Its legality is unknown and its operator is in ``allow_unknown``: prefer a legal form, else leave it.
    4. Nothing helps: report it with all reasons and candidates. One failure anywhere leaves the whole graph as it is.

    dims: symbol -> (least, greatest) size. by_name_at: look at names only, for this later opset: nodes without a
    form there and operators that the surface lacks are replaced where that is possible; only the former are failures.
    Equal nodes (operator, attributes, operand types) cost one search.
    """

    def __init__(
        self,
        operator_set: OperatorSet,
        *,
        dims: Dims | None = None,
        allow_unknown: Collection[str] = (),
        by_name_at: int | None = None,
    ) -> None:
        super().__init__()
        self._operator_set = operator_set
        self._dims = dims or {}
        self._allow = frozenset(allow_unknown)
        self._later = by_name_at
        self._conversion = None if by_name_at is None else ConvertOpset(by_name_at)
        self._table = by_operator()

    def call(self, model: ir.Model) -> LegalizeResult:
        """Legalize in place; ``failures`` of the result are empty when every node has a legal form."""
        self._opset = model.opset_imports.get("", 1)
        self._functions = model.functions
        self._plans: dict[Any, _Plan] = {}
        result = LegalizeResult(model, False)
        todo: list[ir.Node] = []
        for node in model.graph.all_nodes():
            verdict = self._judge(node)
            if isinstance(verdict, Legal):
                continue
            plan = self._search(node, 0, frozenset())
            if plan.choice is not None:
                todo.append(node)
            elif plan.cost is not None:
                result.allowed.append(failure_of(node, verdict, plan.tried))
            elif self._later is None or isinstance(verdict, Illegal):
                result.failures.append(failure_of(node, verdict, plan.tried))
        if result.failures or not todo:
            return result
        names = Names(model)
        for node in todo:
            self._apply(node, names, result)
        result.modified = True
        return result

    def _judge(self, node: ir.Node) -> Legal | Illegal | Unknown:
        if self._later is None:
            return check(node, self._operator_set, self._opset, self._dims)
        if self._conversion is not None and node.domain in ("", "ai.onnx"):
            obstacle = self._conversion.obstacle(node, self._opset)
            if obstacle is not None:
                return Illegal((Reason("opset", obstacle, f"a form at opset {self._later}", "ONNX schemas"),))
        if self._operator_set.accepts(node.domain, node.op_type, self._later):
            return Legal()
        # The verdict proper comes later, at the surface's opset; here it only asks for a search.
        return Unknown((Reason("operator", node.op_type, "an operator that the surface lists", "operator set"),))

    def _search(self, node: ir.Node, depth: int, path: frozenset[Any]) -> _Plan:
        key = self._key(node)
        if key is not None and key in self._plans:
            return self._plans[key]
        if depth > MAX_DEPTH or (key is not None and key in path):
            return _Plan(None, tried=(("deeper", "leads back to the same operator"),))
        plan = self._cheapest(node, depth, path | {key})
        # A plan found below a cycle may be short of candidates: only what was found at the top is kept for all.
        if key is not None and (depth == 0 or plan.cost is not None):
            self._plans[key] = plan
        return plan

    def _cheapest(self, node: ir.Node, depth: int, path: frozenset[Any]) -> _Plan:
        tried: list[tuple[str, str]] = []
        best: tuple[float, Decomposition] | None = None
        for group in self._candidates(node):
            for candidate in group:
                why = candidate.applies(node, self._opset)
                cost = None
                if why is None:
                    cost, why = self._price(node, candidate, depth, path)
                if cost is None:
                    tried.append((candidate.name, why or ""))
                elif best is None or cost < best[0]:
                    best = cost, candidate
            if best is not None and best[0] < _ALLOWED_UNKNOWN:
                return _Plan(best[0], best[1], tuple(tried))
        verdict = self._judge(node)
        if isinstance(verdict, Unknown) and node.op_type in self._allow and self._later is None:
            return _Plan(_ALLOWED_UNKNOWN, None, tuple(tried))
        return _Plan(*best, tuple(tried)) if best is not None else _Plan(None, None, tuple(tried))

    def _candidates(self, node: ir.Node) -> Iterable[list[Decomposition]]:
        """Groups in the order to consider: those of the table, those of last resort, the operator's own body."""
        known = self._table.get((node.domain, node.op_type), [])
        yield [one for one in known if not one.last_resort]
        yield [one for one in known if one.last_resort]
        body = inlining(node, self._opset, self._functions)
        yield [body] if body is not None else []

    def _price(
        self, node: ir.Node, candidate: Decomposition, depth: int, path: frozenset[Any]
    ) -> tuple[float | None, str | None]:
        """The cost of a candidate, or why it does not help."""
        try:
            builder, _ = build(node, candidate, self._opset)
        except BuildError as error:
            return None, str(error)
        total = _STEP
        lacking: list[str] = []
        try:
            for new in builder.nodes:
                verdict = self._judge(new)
                if isinstance(verdict, Legal):
                    total += node_cost(new, self._dims)
                    continue
                below = _Plan(None) if candidate.variant else self._search(new, depth + 1, path)
                if below.cost is None:
                    reason = verdict.reasons[0]
                    lacking.append(
                        f"{qualified(new.domain, new.op_type)} is {_word(verdict)} ({reason.rule}: {reason.met})"
                    )
                else:
                    total += below.cost
        finally:
            discard(builder.nodes)
        return (None, "; ".join(dict.fromkeys(lacking))) if lacking else (total, None)

    def _apply(self, node: ir.Node, names: Names, result: LegalizeResult) -> None:
        """Replace one node by its plan, and what comes out of that by theirs."""
        plan = self._search(node, 0, frozenset())
        if plan.choice is None:
            verdict = self._judge(node)
            if not isinstance(verdict, Legal):
                kept = result.failures if plan.cost is None else result.allowed
                kept.append(failure_of(node, verdict, plan.tried))
            return
        sources = tuple(dict.fromkeys(s for v in node.outputs for s in provenance.of(v).sources or (v.name or "",)))
        result.applied.append(Applied(plan.choice.name, plan.choice.contract, sources))
        for new in decompose_node(node, plan.choice, self._opset, names):
            if new.graph is not None and not isinstance(self._judge(new), Legal):
                self._apply(new, names, result)

    def _key(self, node: ir.Node) -> Any:
        attributes = attribute_key(node)
        if attributes is None:
            return None
        # A composite operator may come out of its own decomposition (the other order of products). There it has no
        # reader yet, and must be the same node as in the graph, or the two plans would go round in a circle.
        alone = bool(node.domain) and len(node.outputs) == 1
        reading = (lambda v: ()) if alone else (lambda v: (used(v), v.is_graph_output()))
        return (
            *(node.domain, node.op_type, node.overload, attributes, tuple(type_key(v) for v in node.inputs)),
            tuple(filled(v) for v in node.inputs) if node.domain else (),
            tuple((type_key(v), *reading(v)) for v in node.outputs),
        )


def _word(verdict: Illegal | Unknown) -> Literal["illegal", "unknown"]:
    return "illegal" if isinstance(verdict, Illegal) else "unknown"


def failure_of(node: ir.Node, verdict: Illegal | Unknown, tried: tuple[tuple[str, str], ...] = ()) -> Failure:
    """A verdict with the place in the user's model and the candidates that were tried."""
    return Failure(
        node=node.name or next((v.name for v in node.outputs if v.name), ""),
        operator=qualified(node.domain, node.op_type),
        op_type=node.op_type,
        verdict=_word(verdict),
        reasons=verdict.reasons,
        candidates=tried,
        place=provenance.place(node.outputs[0]) if node.outputs else "",
    )
