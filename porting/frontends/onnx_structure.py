"""What a graph in an ONNX file must keep to before anything infers over it: wiring, and types of attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import onnx

from porting.errors import InvalidModelError

_Scope: TypeAlias = onnx.GraphProto | onnx.FunctionProto


def check_wiring(path: Path, proto: onnx.ModelProto) -> None:
    """Every name is given before it is read. InvalidModelError names the node, the value and what gives it later."""
    _check_scope(path, proto.graph, frozenset())
    for function in proto.functions:
        _check_scope(path, function, frozenset())


def _check_scope(path: Path, scope: _Scope, outer: frozenset[str]) -> None:
    known = set(outer)
    if isinstance(scope, onnx.GraphProto):
        known.update(v.name for v in scope.input)
        known.update(t.name for t in scope.initializer)
        known.update(t.values.name for t in scope.sparse_initializer)
        outputs = [v.name for v in scope.output]
    else:
        known.update(scope.input)
        outputs = list(scope.output)
    for node in scope.node:
        for name in node.input:
            if name and name not in known:
                later = next((n for n in scope.node if name in n.output), None)
                raise InvalidModelError(
                    f"{_called(node)} reads {name!r}, which no earlier node, input or initializer gives",
                    met="nothing gives it" if later is None else f"{_called(later)} behind it does",
                    where=path,
                    fix="export it again" if later is None else "sort the nodes topologically",
                )
        for body in bodies(node):
            _check_scope(path, body, frozenset(known))
        known.update(node.output)
    for name in outputs:
        if name not in known:
            raise InvalidModelError(
                f"output {name!r} is given by no node, input or initializer", where=path, fix="export it again"
            )


def check_attributes(path: Path, proto: onnx.ModelProto) -> None:
    """Attributes have the types of their operators' schemas. InvalidModelError names node, attribute and both types."""
    domains = {o.domain: o.version for o in proto.opset_import}
    for node in _nodes(proto.graph):
        _check_node(path, node, domains)
    for function in proto.functions:
        for node in _nodes(function):
            _check_node(path, node, {o.domain: o.version for o in function.opset_import})


def _check_node(path: Path, node: onnx.NodeProto, domains: Mapping[str, int]) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, domains.get(node.domain, 0), node.domain)
    except onnx.defs.SchemaError:
        return
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None or attribute.ref_attr_name or not attribute.type:
            continue
        if int(known.type.value) != attribute.type:
            raise InvalidModelError(
                f"attribute {attribute.name!r} of {_called(node)} has another type than {node.op_type} takes",
                required=known.type.name,
                met=onnx.AttributeProto.AttributeType.Name(attribute.type),
                where=path,
                fix="export it again",
            )


def _nodes(scope: _Scope) -> Iterator[onnx.NodeProto]:
    for node in scope.node:
        yield node
        for body in bodies(node):
            yield from _nodes(body)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _called(node: onnx.NodeProto) -> str:
    return f"node {node.name or (node.output[0] if node.output else node.op_type)}"
