"""Remove nodes that return their first input unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import onnx_ir as ir

from porting_passes.constants import array_of, ints_of
from porting_passes.scopes import nodes
from porting_passes.splice import absorb


class EliminateIdentity(ir.passes.InPlacePass):
    """Remove Identity and every node that is one for its attributes, constants and known shapes.

    1. Consumers of the output take the input instead; the input takes over the output's provenance.
    2. The output is a graph output and the input an inner value of the same graph: the input takes its name.
    3. The output is a graph output and the input a graph input, an initializer, another graph output or a value of
       an outer graph: leave the node, names of inputs and outputs never change.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove in place."""
        modified = False
        for node, _ in nodes(model):
            if node.domain == "" and _is_identity(node):
                modified |= _bypass(node)
        return ir.passes.PassResult(model, modified)


def _is_identity(node: ir.Node) -> bool:
    test = _TESTS.get(node.op_type)
    if test is None or not node.inputs or node.inputs[0] is None or any(a.is_ref() for a in node.attributes.values()):
        return False
    return test(node)


def _cast(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype is not None and source.dtype == node.attributes["to"].as_int()


def _cast_like(node: ir.Node) -> bool:
    source, like = node.inputs
    return source is not None and like is not None and source.dtype is not None and source.dtype == like.dtype


def _dropout(node: ir.Node) -> bool:
    """Inference mode: absent or constant false ``training_mode``, and nobody reads the mask."""
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return False
    training = node.inputs[2] if len(node.inputs) > 2 else None
    flag = array_of(training)
    return training is None or (flag is not None and not flag.any())


def _transpose(node: ir.Node) -> bool:
    perm = node.attributes.get("perm")
    return perm is not None and list(perm.as_ints()) == list(range(len(perm.as_ints())))


def _single(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _reshape(node: ir.Node) -> bool:
    """To the shape that the input is known to have, all static; the target must be constant."""
    source, target = node.inputs[0], ints_of(node.inputs[1])
    if source is None or source.shape is None or target is None or not source.shape.is_static():
        return False
    dims = list(source.shape.numpy())
    if len(dims) != len(target):
        return False
    copies = not ("allowzero" in node.attributes and node.attributes["allowzero"].as_int())
    unknown = target.count(-1)
    if unknown and 0 in dims:
        return False
    return unknown <= 1 and all(t in (d, -1) or (t == 0 and copies) for d, t in zip(dims, target, strict=True))


def _expand(node: ir.Node) -> bool:
    source, target = node.inputs[0], ints_of(node.inputs[1])
    if source is None or source.shape is None or target is None or not source.shape.is_static():
        return False
    dims = list(source.shape.numpy())
    padded = [1] * (len(dims) - len(target)) + target
    return len(padded) == len(dims) and all(t in (1, d) for d, t in zip(dims, padded, strict=True))


def _pad(node: ir.Node) -> bool:
    pads = ints_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return pads is not None and not any(pads)


def _tile(node: ir.Node) -> bool:
    repeats = ints_of(node.inputs[1])
    return repeats is not None and all(r == 1 for r in repeats)


_TESTS: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda node: True,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Transpose": _transpose,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Reshape": _reshape,
    "Expand": _expand,
    "Pad": _pad,
    "Tile": _tile,
}


def _bypass(node: ir.Node) -> bool:
    """Connect the input of ``node`` to the consumers of its output and remove it; False where names forbid it."""
    source, output, graph = node.inputs[0], node.outputs[0], node.graph
    if source is None or graph is None:
        return False
    if output.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output() or source.is_initializer():
            return False
    if source.type is None:
        source.type = output.type
    with contextlib.suppress(ValueError):  # a stale declared shape adds nothing
        source.merge_shapes(output.shape)
    name = output.name
    rename = output.is_graph_output()
    absorb(source, output, "eliminate_identity")
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if rename:
        source.name = name
    return True
