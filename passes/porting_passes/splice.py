"""Put newly made nodes in the place of matched ones without losing names, order or provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from porting_passes import provenance
from porting_passes.scopes import scopes


class Names:
    """Value and node names of a model, collected on first use, so that new ones never collide with any scope."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._used: set[str] | None = None
        self._next: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """``wanted``, or ``wanted_1``, ``wanted_2`` ... when it is taken; the result is then taken."""
        if self._used is None:
            self._used = _all_names(self._model)
        name, count = wanted, self._next.get(wanted, 0)
        while name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._next[wanted] = count
        self._used.add(name)
        return name


def _all_names(model: ir.Model) -> set[str]:
    names: set[str] = set()

    def enter(graph: ir.Graph | ir.Function | ir.GraphView) -> None:
        names.update(value.name for value in graph.inputs if value.name)
        if isinstance(graph, ir.Graph):
            names.update(graph.initializers)

    for scope in scopes(model):
        for node in ir.traversal.RecursiveGraphIterator(scope, enter_graph=enter):
            names.update(output.name for output in node.outputs if output.name)
            if node.name:
                names.add(node.name)
    return names


class Tape(Protocol):
    """What :func:`splice` needs of a recorder of new nodes."""

    nodes: list[ir.Node]
    initializers: list[ir.Value]

    def __getattr__(self, op_type: str) -> Callable[..., Any]: ...


class ReplacementTape:
    """Records the nodes of a replacement: ``op.Conv(x, w, strides=[1, 1])``, ``op.constant(array)``.

    An operator call takes values (None for an absent input, left out at the end), attributes as keywords (plain values
    or the ``ir.Attr`` of a match; None leaves the attribute out), ``_domain`` and ``_outputs`` (a count); it returns
    one value, or a sequence when there are several outputs.
    """

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def constant(self, array: np.ndarray | ir.TensorProtocol, name: str = "constant") -> ir.Value:
        """A new initializer (inside functions it becomes a Constant node) holding ``array``."""
        tensor = array if isinstance(array, ir.TensorProtocol) else ir.tensor(array)
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.initializers.append(value)
        return value

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def emit(*inputs: ir.Value | None, _domain: str = "", _outputs: int = 1, **attributes: Any) -> Any:
            given = {name: _renamed(name, value) for name, value in attributes.items() if value is not None}
            present = len(inputs)
            while present and inputs[present - 1] is None:
                present -= 1
            made = ir.node(op_type, inputs[:present], given, domain=_domain, num_outputs=_outputs)
            self.nodes.append(made)
            return made.outputs[0] if _outputs == 1 else made.outputs

        return emit


def _renamed(name: str, value: Any) -> Any:
    if not isinstance(value, ir.Attr):
        return value
    if value.is_ref():
        return ir.RefAttr(name, value.ref_attr_name or name, value.type)
    return ir.Attr(name, value.type, value.value)


def discard(nodes: Iterable[ir.Node]) -> None:
    """Detach nodes that were never inserted, so that their inputs do not count them as consumers."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def absorb(kept: ir.Value, dropped: ir.Value, rule: str) -> None:
    """``kept`` now also stands for what ``dropped`` stood for; it stays comparable with its own first source."""
    mine, other = provenance.of(kept), provenance.of(dropped)
    provenance.set_(
        kept,
        dataclasses.replace(
            mine,
            sources=tuple(dict.fromkeys((*mine.sources, *other.sources))),
            rules=tuple(dict.fromkeys((*mine.rules, *other.rules, rule))),
        ),
    )


def splice(
    scope: ir.Graph | ir.Function,
    root: ir.Node,
    old_nodes: Sequence[ir.Node],
    old_outputs: Sequence[ir.Value],
    tape: Tape,
    new_outputs: Sequence[ir.Value],
    rule: str,
    names: Names,
    positions: dict[ir.Node, float] | None = None,
) -> bool:
    """Replace ``old_outputs`` by ``new_outputs``, insert the tape's nodes, and remove old nodes nobody needs any more.

    positions: topological positions of the nodes of ``scope``; needed when there are several outputs, because a
    consumer of an inner one may stand before ``root``. False (and nothing done) when no place in the present order
    lies after every operand and before every consumer.
    """
    anchor = _anchor(root, old_nodes, old_outputs, tape.nodes, new_outputs, positions)
    if anchor is None:
        return False
    final = _with_identities(tape, old_outputs, new_outputs)
    old_values = [*old_outputs, *(v for node in old_nodes for v in node.outputs if v not in old_outputs)]
    base = next((value.name for value in old_outputs if value.name), root.name or rule)
    _adopt_initializers(scope, tape, old_nodes, rule, names)
    for node in tape.nodes:
        node.name = names.unique(f"{base}/{node.op_type}")
        node.metadata_props.update({k: v for k, v in root.metadata_props.items() if k not in node.metadata_props})
        for output in node.outputs:
            if output.name is None and output not in final:
                output.name = names.unique(f"{base}/{node.op_type}")
            provenance.inherit(output, old_values, rule)
    for old, new in zip(old_outputs, final, strict=True):
        if new.producer() in set(tape.nodes):
            provenance.inherit(new, [old, *(v for v in old_values if v is not old)], rule, equal=True)
            new.name = old.name
            new.type = old.type or new.type
            new.shape = old.shape or new.shape
        else:
            absorb(new, old, rule)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    if anchor is root:
        scope.insert_after(root, tape.nodes)
    else:
        scope.insert_before(anchor, tape.nodes)
    if positions is not None:
        place = positions[root] if anchor is root else positions[anchor] - 0.5
        positions.update(dict.fromkeys(tape.nodes, place))
    _remove_unused(scope, old_nodes)
    for old in old_outputs:
        producer = old.producer()
        if producer is not None and producer.graph is not None:
            old.name = names.unique(f"{base}/shared")
    return True


def _anchor(
    root: ir.Node,
    old_nodes: Sequence[ir.Node],
    old_outputs: Sequence[ir.Value],
    new_nodes: Sequence[ir.Node],
    new_outputs: Sequence[ir.Value],
    positions: dict[ir.Node, float] | None,
) -> ir.Node | None:
    """``root`` to insert after it, another node to insert before it, None when there is no valid place."""
    if len(old_outputs) == 1 or positions is None:
        return root
    own = set(old_nodes) | set(new_nodes)
    consumers = {node for value in old_outputs for node, _ in value.uses() if node not in own}
    if any(node not in positions for node in consumers):
        return None
    first = min(consumers, key=positions.__getitem__, default=None)
    if first is None or positions[first] > positions[root]:
        return root
    operands = {value for node in new_nodes for value in node.inputs if value is not None} | set(new_outputs)
    producers = {value.producer() for value in operands}
    last = max((positions[p] for p in producers if p is not None and p in positions), default=-1.0)
    return first if last < positions[first] else None


def _with_identities(tape: Tape, old_outputs: Sequence[ir.Value], new_outputs: Sequence[ir.Value]) -> list[ir.Value]:
    """Graph outputs keep their names: one that would become an existing or shared value goes through Identity."""
    made = {value for node in tape.nodes for value in node.outputs}
    final: list[ir.Value] = []
    for old, new in zip(old_outputs, new_outputs, strict=True):
        if old.is_graph_output() and (new not in made or new in final):
            new = tape.Identity(new)
        final.append(new)
    return final


def _adopt_initializers(
    scope: ir.Graph | ir.Function, tape: Tape, old_nodes: Sequence[ir.Node], rule: str, names: Names
) -> None:
    """Register the tape's initializers; a function has none, so there they become Constant nodes."""
    weights = [v for node in old_nodes for v in node.inputs if v is not None and v.const_value is not None]
    constants: list[ir.Node] = []
    for value in tape.initializers:
        provenance.inherit(value, weights, rule)
        value.name = names.unique(value.name or "constant")
        if isinstance(scope, ir.Graph):
            scope.register_initializer(value)
            continue
        if value.const_value is None:
            raise ValueError(f"rewrite {rule}: constant {value.name} has no data")
        node = ir.Node("", "Constant", [], [ir.AttrTensor("value", value.const_value)], num_outputs=1)
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = value.name, value.type, value.shape
        node.outputs[0].const_value = value.const_value
        value.replace_all_uses_with(node.outputs[0])
        constants.append(node)
    tape.nodes[:0] = constants


def _remove_unused(scope: ir.Graph | ir.Function, nodes: Sequence[ir.Node]) -> None:
    """Remove those of ``nodes`` that no one consumes, consumers first."""
    pending = list(nodes)
    while True:
        unused = [n for n in pending if not any(v.uses() or v.is_graph_output() for v in n.outputs)]
        if not unused:
            return
        scope.remove(unused, safe=True)
        pending = [node for node in pending if node not in unused]
