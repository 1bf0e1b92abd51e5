"""The quantized products of a port, each with the float computation that it stands for, ready to run alone.

The float model is the source after fusing and before quantizing: there every product is a node with the source's
weights. A *region* is that node with as much around it as lies between values that the port has too: usually the
product alone, and more where the port fused it with a neighbour (a gated activation, a norm that also quantizes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from porting.weights.view import WeightView
from porting_passes import provenance
from porting_passes.constants import constant_of
from porting_passes.provenance import Provenance

_PRODUCTS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "porting.GroupedMatmul": 1}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_INTEGER_WEIGHTS = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)


@dataclasses.dataclass(frozen=True)
class Region:
    """One or several products that are measured together.

    modules: of the products, in the user's names; weights: names of their stored tensors, or of the initializers.
    inputs, outputs: name in the port -> name in ``model``. model: float32, with the source's weights.
    """

    modules: tuple[str, ...]
    weights: tuple[str, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    model: ir.Model

    @property
    def module(self) -> str:
        """The first module, by which the region is named."""
        return self.modules[0]


def regions(floated: ir.Model, ported: ir.Model, origins: Mapping[str, Provenance]) -> tuple[list[Region], list[str]]:
    """The regions of all quantized products, in the order of the float model, and the modules of products whose
    surroundings the port has no value for.

    floated: the source, fused and in float. origins: provenance of the port's values.
    """
    shared = _Shared(floated, ported, origins)
    found: dict[tuple[str, ...], Region] = {}
    lost: list[str] = []
    for node in floated.graph:
        weight = _weight(node)
        if weight is None:
            continue
        cut = _cut(node, shared)
        if cut is None:
            lost.append(_module(node))
        elif any(_takes_integers(n) for n in shared.between(cut)):
            region = _region(cut, floated)
            found.setdefault(tuple(sorted(region.outputs)), region)
    return list(found.values()), lost


@dataclasses.dataclass(frozen=True)
class _Cut:
    """nodes: of the float model, in its order. inputs, outputs: (value, name in the port)."""

    nodes: Sequence[ir.Node]
    inputs: Mapping[ir.Value, str]
    outputs: Mapping[ir.Value, str]


class _Shared:
    """Which values of the float model the port has too, and under which name."""

    def __init__(self, floated: ir.Model, ported: ir.Model, origins: Mapping[str, Provenance]) -> None:
        self._ported = {v.name or "": v for node in ported.graph for v in node.outputs}
        self._inputs = {v.name or "" for v in ported.graph.inputs}
        self.order = {node: index for index, node in enumerate(floated.graph)}
        first: dict[str, str] = {}
        for name in self._ported:
            origin = origins.get(name)
            if origin is not None and origin.equal and origin.sources:
                first.setdefault(origin.sources[0], name)
        self._by_source, self._origins = first, origins

    def name(self, value: ir.Value) -> str | None:
        """The port's name for a value of the float model."""
        if value.is_graph_input():
            return value.name if value.name in self._inputs else None
        origin = provenance.of(value)
        if origin.equal and origin.sources and (name := self._by_source.get(origin.sources[0])) is not None:
            return name
        known = self._origins.get(value.name or "")
        same = (
            known is not None
            and (known.sources, known.equal) == (origin.sources, origin.equal)
            and value.name in self._ported
        )
        return value.name if same else None

    def between(self, cut: _Cut) -> Iterator[ir.Node]:
        """The nodes of the port that make the outputs of a cut from its inputs."""
        stop = set(cut.inputs.values())
        pending = [self._ported[name] for name in cut.outputs.values()]
        seen: set[ir.Node] = set()
        while pending:
            node = pending.pop().producer()
            if node is None or node in seen:
                continue
            seen.add(node)
            yield node
            pending += [v for v in node.inputs if v is not None and v.name not in stop]


def _cut(product: ir.Node, shared: _Shared) -> _Cut | None:
    """From a product down to values that the port has, and from there up to others; None where there are none."""
    outputs: dict[ir.Value, str] = {}
    nodes = {product}
    pending = list(product.outputs)
    while pending:  # down
        value = pending.pop()
        name = shared.name(value)
        if name is not None:
            outputs[value] = name
            continue
        if value.is_graph_output() or not value.uses():
            return None
        for reader, _ in value.uses():
            if reader not in shared.order:
                return None  # inside a graph of its own
            if reader not in nodes:
                nodes.add(reader)
                pending += [v for v in reader.outputs if v.uses() or v.is_graph_output()]
    inputs: dict[ir.Value, str] = {}
    waiting = [v for node in nodes for v in node.inputs]
    while waiting:  # up
        value_ = waiting.pop()
        if value_ is None or value_ in inputs or constant_of(value_) is not None or value_.producer() in nodes:
            continue
        name = shared.name(value_)
        producer = value_.producer()
        if name is not None:
            inputs[value_] = name
        elif producer is None or producer not in shared.order:
            return None
        else:
            nodes.add(producer)
            waiting += list(producer.inputs)
    # A node that was taken in for one of its results gives the others too.
    inputs = {value: name for value, name in inputs.items() if value.producer() not in nodes}
    return _Cut(sorted(nodes, key=shared.order.__getitem__), inputs, outputs)


def _region(cut: _Cut, floated: ir.Model) -> Region:
    values: dict[ir.Value, ir.Value] = {}

    def copied(value: ir.Value) -> ir.Value:
        if value not in values:
            twin = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)
            values[value] = twin
        return values[value]

    inputs = [copied(value) for value in cut.inputs]
    initializers = []
    nodes = []
    for node in cut.nodes:
        operands = [None if v is None else copied(v) for v in node.inputs]
        for value in node.inputs:
            if value is not None and value.is_initializer() and not value.is_graph_input():
                initializers.append(copied(value))
            elif value is not None and value not in cut.inputs and constant_of(value) is not None:
                twin = copied(value)
                twin.const_value = constant_of(value)
                initializers.append(twin)
        results = [copied(v) for v in node.outputs]
        nodes.append(ir.node(node.op_type, operands, dict(node.attributes), domain=node.domain, outputs=results))
    outputs = [values[value] for value in cut.outputs]
    graph = ir.Graph(
        inputs, outputs, nodes=nodes, initializers=list(dict.fromkeys(initializers)),
        opset_imports=dict(floated.graph.opset_imports), name="region",
    )  # fmt: skip
    products = [node for node in cut.nodes if _weight(node) is not None]
    return Region(
        modules=tuple(dict.fromkeys(map(_module, products))),
        weights=tuple(dict.fromkeys(name for node in products for name in _stored(node))),
        inputs={name: value.name or "" for value, name in cut.inputs.items()},
        outputs={name: value.name or "" for value, name in cut.outputs.items()},
        model=ir.Model(graph, ir_version=floated.ir_version, functions=list(floated.functions.values())),
    )


def _weight(node: ir.Node) -> ir.Value | None:
    """The constant floating weight of a product, if the node is one."""
    operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    if operator not in _PRODUCTS:
        return None
    value = node.inputs[_PRODUCTS[operator]]
    tensor = constant_of(value)
    return value if tensor is not None and tensor.dtype in _FLOATS and len(tensor.shape) > 1 else None


def _stored(node: ir.Node) -> list[str]:
    value = _weight(node)
    tensor = constant_of(value)
    if isinstance(tensor, WeightView):
        return [piece.stored.entry.name for piece in tensor.raw]
    return [value.name or ""] if value is not None else []


def _module(node: ir.Node) -> str:
    value = node.outputs[0]
    return provenance.of(value).module or value.name or ""


def _takes_integers(node: ir.Node) -> bool:
    """Whether a node of the port multiplies with an integer weight."""
    tensors = (constant_of(value) for value in node.inputs)
    return any(t is not None and t.dtype in _INTEGER_WEIGHTS and len(t.shape) > 1 for t in tensors)
