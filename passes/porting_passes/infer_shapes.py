"""Fill in types and shapes by ONNX's own inference, without ever copying a weight."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from porting_kernels.errors import ShapeError
from porting_passes.constants import stays_on_disk
from porting_passes.scopes import subgraphs

_MADE_UP = re.compile(r"unk__\d+")
SMALL = 1 << 14
"""Bytes up to which an initializer takes part in inference by value; larger ones only by type and shape."""


class InferShapes(ir.passes.InPlacePass):
    """Types and shapes for every value of the main graph and its subgraphs.

    1. A dimension known before stays. With ``strict``, one that ONNX infers differently is a ShapeError.
    2. A dimension that was a symbol or unknown becomes what is inferred: a number first, else a symbol with a name.
    3. Nodes of domains without schemas, and what depends on them, keep what is known.

    strict: operands that cannot go together are a ShapeError. Without it they are left to whoever runs the model:
    files with stale shape annotations are common, and they run.
    """

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__()
        self._strict = strict

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infer in place."""
        _type_weights(model)
        with _without_weights(model):
            proto = ir.to_proto(model)
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=self._strict, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise ShapeError("shapes do not fit together", met=_summary(error)) from None
        return ir.passes.PassResult(model, self._merge_graph(model.graph, inferred.graph))

    def _merge_graph(self, graph: ir.Graph, proto: onnx.GraphProto) -> bool:
        found = {info.name: info.type for info in (*proto.value_info, *proto.output)}
        modified = False
        for node, node_proto in zip(graph, proto.node, strict=True):
            for output in node.outputs:
                if output.name in found:
                    modified |= self._merge_value(output, found[output.name], node)
            body_protos = [g for a in node_proto.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]
            for body, body_proto in zip(subgraphs(node), body_protos, strict=True):
                modified |= self._merge_graph(body, body_proto)
        return modified

    def _merge_value(self, value: ir.Value, proto: onnx.TypeProto, node: ir.Node) -> bool:
        inferred = ir.serde.deserialize_type_proto_for_type(proto)
        modified = False
        if inferred is not None and value.type is None:
            value.type, modified = inferred, True
        shape = _without_made_up_names(ir.serde.deserialize_type_proto_for_shape(proto))
        if shape is None:
            return modified
        if value.shape is None:
            value.shape = shape
            return True
        if len(shape) != len(value.shape):
            if self._strict:
                raise ShapeError("inferred rank differs", required=value.shape, met=shape, where=_where(node))
            return modified
        merged = ir.Shape([self._merge_dim(a, b, node) for a, b in zip(value.shape, shape, strict=True)])
        if merged != value.shape:
            value.shape, modified = merged, True
        return modified

    def _merge_dim(
        self, known: int | ir.SymbolicDim, inferred: int | ir.SymbolicDim, node: ir.Node
    ) -> int | ir.SymbolicDim:
        if isinstance(known, int):
            if self._strict and isinstance(inferred, int) and inferred != known:
                raise ShapeError("inferred dimension differs", required=known, met=inferred, where=_where(node))
            return known
        return inferred if isinstance(inferred, int) or known.value is None else known


def _without_made_up_names(shape: ir.Shape | None) -> ir.Shape | None:
    """ONNX names each extent that it cannot follow ``unk__N``, anew in each run: here they stay nameless."""
    if shape is None:
        return None
    return ir.Shape([None if _MADE_UP.fullmatch(str(dim)) else dim for dim in shape])


def _type_weights(model: ir.Model) -> None:
    """An initializer without a declared type has that of its tensor."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and (value.type is None or value.shape is None):
                value.type = ir.TensorType(tensor.dtype)
                value.shape = ir.Shape(tensor.shape.numpy())


@contextlib.contextmanager
def _without_weights(model: ir.Model) -> Iterator[None]:
    """Take the data of large initializers away; their types and shapes stay. Restored on exit."""
    kept: list[tuple[ir.Value, ir.TensorProtocol]] = []
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)  # It warns of every initializer without data: here that is the point.
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and (tensor.nbytes > SMALL or stays_on_disk(tensor)):
                kept.append((value, tensor))
                value.const_value = None
    try:
        yield
    finally:
        log.setLevel(level)
        for value, tensor in kept:
            value.const_value = tensor


def _where(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or ''}".strip()


def _summary(error: Exception) -> str:
    return " ".join(str(error).split())
