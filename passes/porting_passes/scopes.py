"""Everything in a model that holds nodes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

Scope = ir.Graph | ir.Function


def scopes(model: ir.Model) -> list[Scope]:
    """The main graph and then every function: the places with opset imports of their own. Subgraphs lie inside."""
    return [model.graph, *model.functions.values()]


def nodes(model: ir.Model) -> Iterator[tuple[ir.Node, Scope]]:
    """Every node with the graph or function whose opset imports rule it; subgraphs included, outer nodes first."""
    for scope in scopes(model):
        for node in ir.traversal.RecursiveGraphIterator(scope):
            yield node, scope


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among a node's attributes, in order."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def holder(node: ir.Node, root: Scope) -> Scope | None:
    """The graph that holds a node; a function stands for its own graph. None for a node outside any graph."""
    if isinstance(root, ir.Function) and node.graph is root.graph:
        return root
    return node.graph
