"""Local rewrites: patterns in onnxscript's language, applied by a driver whose cost grows linearly with the graph.

The stock driver tries every rule at every node. Here rules are indexed by the operator of the pattern's output node,
and the operators right above it are compared before the matcher starts, so a node costs about one dictionary look-up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern as patterns

from porting_passes import provenance
from porting_passes.contract import EXACT, Contract, Example
from porting_passes.inference import signature_error, type_error
from porting_passes.scopes import Scope, scopes, subgraphs
from porting_passes.search import Search, SearchRule
from porting_passes.splice import Names, ReplacementTape, discard, splice

__all__ = ["EXACT", "Applied", "Contract", "Example", "Rewrite", "RewritePass", "RewriteResult"]

Accepts = Callable[[str, str, int], bool]


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A local pattern, what replaces it, and what the replacement promises about numbers.

    pattern(op, *variables): onnxscript's pattern language. The pattern has one output node from which all its other
    nodes are reached; it may return several values.
    replacement(op, **bindings): emits nodes on ``op`` (:class:`porting_passes.splice.ReplacementTape`) and returns
    the new value of each pattern output, or None to leave the graph as it is. An unmatched optional variable is None.
    condition(context, **bindings): whether to rewrite; ``context.nodes`` are the matched nodes.
    keep_shared: rewrite also where inner values have other consumers; the nodes that these need stay.
    commute: also match with the operands of Add, Mul and other commutative operators swapped.
    Attributes that the pattern does not name are allowed on the matched nodes: the condition must look at them.
    """

    name: str
    pattern: Callable[..., Any]
    replacement: Callable[..., Any]
    contract: Contract
    examples: Callable[[np.random.Generator], Iterable[Example]]
    condition: Callable[..., Any] | None = None
    keep_shared: bool = False
    commute: bool = False


@dataclasses.dataclass(frozen=True)
class Applied:
    """One application of a rewrite: its name, its contract, and the source values that the new values stand for."""

    rule: str
    contract: Contract
    sources: tuple[str, ...]


@dataclasses.dataclass
class RewriteResult(ir.passes.PassResult):
    """A pass result that also lists what was applied, in the order of application."""

    applied: list[Applied] = dataclasses.field(default_factory=list)


class _Matcher(patterns.SimplePatternMatcher):  # type: ignore[misc]  # onnxscript has no types for mypy
    """The stock matcher, except that a constant must really be one and is read only when its size fits."""

    def _match_constant(self, pattern_constant: Any, value: ir.Value) -> bool:
        expected = pattern_constant.value
        size = len(expected) if isinstance(expected, list) else 1
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or tensor.size != size:
            return bool(self.fail(f"{value.name} is not a constant of {size} elements"))
        return bool(super()._match_constant(pattern_constant, value))


class _Rule:
    """A rewrite compiled for matching; ``above`` are (input index, operator) pairs that must hold at the root."""

    def __init__(self, rewrite: Rewrite, graph_pattern: Any) -> None:
        if len(graph_pattern.output_nodes) != 1:
            raise ValueError(f"rewrite {rewrite.name}: its pattern has {len(graph_pattern.output_nodes)} output nodes")
        self.rewrite = rewrite
        self.outputs: int = graph_pattern.num_outputs
        self._pattern = patterns.Pattern(graph_pattern, rewrite.condition, _Matcher, name=rewrite.name)
        root = graph_pattern.output_node
        self.root = _operator(root)
        producers = [value.producer() if value is not None else None for value in root.inputs]
        operators = ((i, _operator(producer)) for i, producer in enumerate(producers) if producer)
        self.above = frozenset((i, operator[1]) for i, operator in operators if operator is not None)

    def match(self, model: ir.Model, scope: Scope, node: ir.Node) -> Any:
        """The stock match result when the pattern ends at ``node`` and the condition holds, else None."""
        found = self._pattern.match(model, scope, node, check_nodes_are_removable=not self.rewrite.keep_shared)
        return found or None


def _operator(node: Any) -> tuple[str, str] | None:
    """Domain and type that a node pattern asks for, None when it takes several. A commuted pattern forgets it."""
    identifier = node.op_identifier()
    if identifier is not None:
        return str(identifier[0]), str(identifier[1])
    fixed = [getattr(part, "value", None) for part in (node.domain, node.op)]
    return (str(fixed[0]()), str(fixed[1]())) if fixed[0] is not None and fixed[1] is not None else None


def _above(node: ir.Node) -> frozenset[tuple[int, str]]:
    """Input index and operator of the node that makes it, for every input that a node makes."""
    producers = ((index, value.producer()) for index, value in enumerate(node.inputs) if value is not None)
    return frozenset((index, producer.op_type) for index, producer in producers if producer is not None)


@functools.cache
def _compile(rewrite: Rewrite | Search) -> tuple[_Rule | SearchRule, ...]:
    """Once a process: tracing the patterns of all fusions takes as long as rewriting a small network with them."""
    if isinstance(rewrite, Search):
        return (SearchRule(rewrite),)
    graph_pattern = patterns.Pattern(rewrite.pattern)._target_pattern
    variants = graph_pattern.commute() if rewrite.commute else [graph_pattern]
    return tuple(_Rule(rewrite, variant) for variant in variants)


class RewritePass(ir.passes.InPlacePass):
    """Apply rewrites everywhere, subgraphs and functions included, until none applies.

    1. A pattern matches and its condition holds: replace it. The new values inherit the provenance of the old ones;
       a value that replaces a pattern output takes its name, type, shape and place among the graph outputs.
    2. The replacement needs an operator that the model's opset lacks, that does not take these dtypes, or that
       ``accepts`` refuses: leave the graph.
    3. A rule is not offered a node that it made itself, so the pass ends.
    """

    def __init__(self, rewrites: Sequence[Rewrite | Search], *, accepts: Accepts | None = None) -> None:
        super().__init__()
        self.rewrites = tuple(rewrites)
        self._accepts = accepts
        self._index: dict[tuple[str, str] | None, list[_Rule | SearchRule]] = {}
        rules = [rule for rewrite in self.rewrites for rule in _compile(rewrite)]
        for key in {rule.root for rule in rules}:
            self._index[key] = [rule for rule in rules if rule.root in (key, None)]
        self._ordered = any(rule.outputs > 1 for rule in rules)

    def call(self, model: ir.Model) -> RewriteResult:
        """Rewrite in place."""
        applied: list[Applied] = []
        names = Names(model)
        for scope in scopes(model):
            _expose_constants(scope)
            made_by: dict[ir.Node, frozenset[str]] = {}
            before = -1
            while before != len(applied):
                before = len(applied)
                self._sweep(model, scope, scope, applied, names, made_by)
        return RewriteResult(model, bool(applied), applied)

    def _sweep(
        self,
        model: ir.Model,
        root: Scope,
        scope: Scope,
        applied: list[Applied],
        names: Names,
        made_by: dict[ir.Node, frozenset[str]],
    ) -> None:
        """One pass over the nodes of ``scope`` and of the subgraphs inside it; ``root`` holds the opset imports."""
        positions = {node: float(i) for i, node in enumerate(scope)} if self._ordered else None
        anything = self._index.get(None, [])
        for node in scope:
            rules = self._index.get((node.domain, node.op_type), anything)
            above = _above(node) if rules else frozenset()
            for rule in rules:
                if not rule.above <= above:
                    continue
                lineage = made_by.get(node, frozenset())
                if rule.rewrite.name in lineage:
                    continue
                new_nodes = self._try(rule, model, root, scope, node, applied, names, positions)
                if new_nodes is not None:
                    made_by.update(dict.fromkeys(new_nodes, lineage | {rule.rewrite.name}))
                    break
            for graph in subgraphs(node):
                self._sweep(model, root, graph, applied, names, made_by)

    def _try(
        self,
        rule: _Rule | SearchRule,
        model: ir.Model,
        root: Scope,
        scope: Scope,
        node: ir.Node,
        applied: list[Applied],
        names: Names,
        positions: dict[ir.Node, float] | None,
    ) -> Sequence[ir.Node] | None:
        """Match and replace at one node; the new nodes, or None when the graph was left as it is."""
        match = rule.match(model, scope, node)
        if match is None:
            return None
        rewrite = rule.rewrite
        tape = ReplacementTape()
        outputs = rewrite.replacement(tape, **match.bindings)
        if outputs is None or outputs is False or not self._emittable(tape.nodes, root):
            discard(tape.nodes)
            return None
        new_outputs = [outputs] if isinstance(outputs, ir.Value) else list(outputs)
        if len(new_outputs) != len(match.outputs):
            raise ValueError(f"rewrite {rewrite.name} gave {len(new_outputs)} values for {len(match.outputs)}")
        sources = _sources(match.outputs)
        if positions is not None and node not in match.nodes:  # the root stays: the last of the others is the place
            node = max(match.nodes, key=positions.__getitem__)
        if not splice(scope, node, match.nodes, match.outputs, tape, new_outputs, rewrite.name, names, positions):
            discard(tape.nodes)
            return None
        for domain in {new.domain for new in tape.nodes}:
            for imports in (root.opset_imports, model.opset_imports):
                imports.setdefault(domain, 1)
        applied.append(Applied(rewrite.name, rewrite.contract, sources))
        return tape.nodes

    def _emittable(self, nodes: Sequence[ir.Node], root: Scope) -> bool:
        """Whether every new node is well formed at the opset in force, as far as dtypes are known, and accepted.

        A domain that onnx does not define is taken on trust.
        """
        for node in nodes:
            version = root.opset_imports.get(node.domain, 1)
            if node.domain in ("", "ai.onnx") and (signature_error(node, version) or type_error(node, version)):
                return False
            if self._accepts is not None and not self._accepts(node.domain, node.op_type, version):
                return False
        return True


def _sources(values: Iterable[ir.Value]) -> tuple[str, ...]:
    """Source names of values, or their own names where no provenance is recorded."""
    found: dict[str, None] = {}
    for value in values:
        found.update(dict.fromkeys(provenance.of(value).sources or ([value.name] if value.name else [])))
    return tuple(found)


def _expose_constants(scope: Scope) -> None:
    """Hang the tensor of every Constant node on its output, where the matcher looks for constants."""
    for node in ir.traversal.RecursiveGraphIterator(scope):
        if node.op_type == "Constant" and node.domain == "" and node.outputs[0].const_value is None:
            node.outputs[0].const_value = ir.convenience.get_const_tensor(node.outputs[0])
