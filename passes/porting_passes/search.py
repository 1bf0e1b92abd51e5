"""Rewrites whose pattern is a short program.

A chain with optional links, shared parts and several outputs takes many patterns of onnxscript's language, and one
function that walks from node to node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example


class MismatchError(Exception):
    """The graph is not what the search looks for."""


class Trail:
    """Where a search has been: the nodes that its result replaces, and the values that take its place.

    Every step leads to a node of the root's own graph, or ends the search. A node that was passed goes away when nobody
    needs it any more. ``shared`` steps may lead through nodes whose results others read as well; any other such node
    ends the search, unless what they read is one of ``outputs``.
    """

    def __init__(self, root: ir.Node) -> None:
        self.root = root
        self.nodes: list[ir.Node] = [root]
        self.outputs: list[ir.Value] = [root.outputs[0]]
        self._private = {root}

    def stay(self) -> None:
        """The root is only where the search starts; it is not replaced."""
        self.nodes.remove(self.root)
        self._private.discard(self.root)

    def fail(self) -> NoReturn:
        """End the search."""
        raise MismatchError

    def require(self, holds: object) -> None:
        """End the search unless ``holds``."""
        if not holds:
            raise MismatchError

    def up(self, value: ir.Value | None, *op_types: str, domain: str = "", shared: bool = False) -> ir.Node:
        """The node that makes a value, of one of these operators."""
        node = self.peek(value, *op_types, domain=domain)
        if node is None:
            raise MismatchError
        self._pass(node, shared)
        return node

    def peek(self, value: ir.Value | None, *op_types: str, domain: str = "") -> ir.Node | None:
        """The same without going there; None when it is none of these operators."""
        node = None if value is None else value.producer()
        if node is None or node.op_type not in op_types or node.domain != domain or node.graph is not self.root.graph:
            return None
        return node

    def through(self, value: ir.Value | None, *op_types: str, shared: bool = False) -> ir.Value:
        """The value above any number of nodes of these operators, each followed along its first input."""
        while (node := self.peek(value, *op_types)) is not None:
            self._pass(node, shared)
            value = node.inputs[0]
        if value is None:
            raise MismatchError
        return value

    def operand(self, node: ir.Node, *op_types: str, shared: bool = False) -> tuple[ir.Node, ir.Value]:
        """Of two operands in either order: the node of one of these operators that makes one, and the other one."""
        for index in (0, 1):
            made, other = node.inputs[index], node.inputs[1 - index]
            if other is not None and self.peek(made, *op_types) is not None:
                return self.up(made, *op_types, shared=shared), other
        raise MismatchError

    def down(self, value: ir.Value, *op_types: str) -> ir.Node | None:
        """The node that reads a value, when it is the only one, in the root's graph, and one of these operators."""
        readers = {node for node, _ in value.uses()}
        if len(readers) != 1 or value.is_graph_output():
            return None
        (node,) = readers
        if node.op_type not in op_types or node.domain != "" or node.graph is not self.root.graph:
            return None
        return node

    def follow(self, node: ir.Node) -> ir.Value:
        """Go to a node found by ``down``; its first output."""
        self._pass(node, shared=False)
        return node.outputs[0]

    def _pass(self, node: ir.Node, shared: bool) -> None:
        if node not in self.nodes:
            self.nodes.append(node)
        if not shared:
            self._private.add(node)

    def leaks(self) -> bool:
        """Whether something outside reads an inner value that nothing would make any more."""
        own = set(self.nodes)
        inner = (value for node in self._private for value in node.outputs if value not in self.outputs)
        return any(v.is_graph_output() or any(reader not in own for reader, _ in v.uses()) for v in inner)


@dataclasses.dataclass(frozen=True)
class Search:
    """A rewrite, :class:`porting_passes.rewrite.Rewrite`, whose pattern is the function ``match``.

    root: domain and operator of the node from which it is searched. match(trail, node): walks and returns the
    operands that ``replacement(op, **operands)`` takes; ``trail.fail()`` and ``trail.require`` end it where the graph
    differs. several_outputs: whether ``trail.outputs`` may be more than one. ``replacement``, ``contract`` and
    ``examples`` are those of a rewrite.
    """

    name: str
    root: tuple[str, str]
    match: Callable[[Trail, ir.Node], dict[str, Any]]
    replacement: Callable[..., Any]
    contract: Contract
    examples: Callable[[np.random.Generator], Iterable[Example]]
    several_outputs: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came back with."""

    bindings: dict[str, Any]
    nodes: Sequence[ir.Node]
    outputs: Sequence[ir.Value]


class SearchRule:
    """A search as the driver of rewrites takes it."""

    above: frozenset[tuple[int, str]] = frozenset()

    def __init__(self, rewrite: Search) -> None:
        self.rewrite = rewrite
        self.root: tuple[str, str] | None = rewrite.root
        self.outputs = 2 if rewrite.several_outputs else 1

    def match(self, model: ir.Model, scope: ir.Graph | ir.Function, node: ir.Node) -> Found | None:
        """What the search finds from ``node``, or None."""
        trail = Trail(node)
        try:
            bindings = self.rewrite.match(trail, node)
        except MismatchError:
            return None
        return None if trail.leaks() else Found(bindings, trail.nodes, trail.outputs)
