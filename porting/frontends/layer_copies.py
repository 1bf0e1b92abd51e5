"""The graph of one decoder layer stamped out for the layers equal to it, once it is proven to repeat the one before."""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Collection, Sequence

import onnx_ir as ir

from porting.frontends.origin import CLASSES, SCOPES, TRACE
from porting.frontends.repeated_layers import LayersDiffer, Run

_NAMESPACE = "namespace"
_FX_NODE = "pkg.torch.onnx.fx_node"


def stamp_out(graph: ir.Graph, run: Run) -> None:
    """Add the layers that a trace of a run left out, in place; parameters are taken by their names.

    The second layer of the run must be the first with its own parameters: node by node the same operator, attributes,
    shapes and place in the code, reading the counterpart of what the first reads, or a value that neither the hidden
    state nor a parameter enters. Raises LayersDiffer, before anything is changed, where that cannot be shown.
    """
    pair = _Pair(graph, run)
    pair.prove()
    parameters = pair.add_parameters(run.skipped)
    users = [usage for usage in pair.leaving.uses() if usage.node not in pair.second]
    outputs = [at for at, value in enumerate(graph.outputs) if value is pair.leaving]
    hidden, last = pair.leaving, next(reversed(pair.second))
    for number in run.skipped:
        nodes, hidden = pair.copy(number, parameters[number], hidden)
        graph.insert_after(last, nodes)
        last = nodes[-1]
    for usage in users:
        usage.node.replace_input_with(usage.idx, hidden)
    for at in outputs:
        graph.outputs[at] = hidden


class _Pair:
    """Two neighbouring layers. entering: the hidden state that the second reads; leaving: the one it makes."""

    entering: ir.Value
    leaving: ir.Value

    def __init__(self, graph: ir.Graph, run: Run) -> None:
        self._graph, self._path = graph, run.path
        self._one, self._two = f"{run.path}.{run.first}.", f"{run.path}.{run.first + 1}."
        scopes = [(node, _scopes(node)) for node in graph]
        self.first = dict.fromkeys(node for node, path in scopes if self._one[:-1] in path)
        self.second = dict.fromkeys(node for node, path in scopes if self._two[:-1] in path)
        self._twins: dict[ir.Value, ir.Value] = {}  # of the second layer -> of the first
        self._chain: tuple[ir.Value, ir.Value] | None = None  # what the second reads of the first, what that reads

    def prove(self) -> None:
        """Find the counterpart of every node, then see that nothing but the hidden state and constants leaves."""
        if not self._stand_together():
            raise LayersDiffer(f"{self._one[:-1]} and {self._two[:-1]} are not one after the other in the trace")
        rest = iter(self.first)
        for node in self.second:
            twin = next((other for other in rest if self._counterparts(node, other)), None)
            if twin is None:
                raise LayersDiffer(f"{node.name} of {self._two[:-1]} has no counterpart in {self._one[:-1]}")
            self._twins.update(zip(node.outputs, twin.outputs, strict=True))
        if self._chain is None:
            raise LayersDiffer(f"{self._two[:-1]} reads nothing of {self._one[:-1]}")
        self.entering = self._chain[0]
        leaving = [value for value, twin in self._twins.items() if twin is self.entering]
        if len(leaving) != 1:
            raise LayersDiffer(f"{self._two[:-1]} makes no counterpart of {self.entering.name}")
        self.leaving = leaving[0]
        self._check_uses(self.first, self._one, self._chain[1], self.entering)
        self._check_uses(self.second, self._two, self._chain[0], self.leaving)
        if any(u.node not in self.first and u.node not in self.second for u in self.entering.uses()):
            raise LayersDiffer(f"{self.entering.name}, what {self._one[:-1]} makes, is used beyond the next layer")

    def _stand_together(self) -> bool:
        both = [*self.first, *self.second]
        nodes = itertools.dropwhile(lambda node: node is not both[0], self._graph)
        return bool(self.first and self.second) and list(itertools.islice(nodes, len(both))) == both

    def _counterparts(self, node: ir.Node, other: ir.Node) -> bool:
        if _operation(node) != _operation(other) or not _attributes_equal(node, other):
            return False
        if _place(node, self._two) != _place(other, self._one) or len(node.inputs) != len(other.inputs):
            return False
        chain = self._chain
        if all(self._match(value, twin) for value, twin in zip(node.inputs, other.inputs, strict=True)):
            return True
        self._chain = chain
        return False

    def _match(self, value: ir.Value | None, twin: ir.Value | None) -> bool:
        if value is None or twin is None:
            return value is twin
        if any(v.is_initializer() and _under(v.name, f"{self._path}.") is not None for v in (value, twin)):
            own = _under(value.name, self._two)
            return own is not None and own == _under(twin.name, self._one)
        if value is twin:
            return True  # _check_uses sees whether one of the first layer may be shared
        if value in self._twins:
            return self._twins[value] is twin or _constants_equal(value, twin)
        if _constants_equal(value, twin):
            return True
        if self._chain is None and value.producer() in self.first and twin.producer() not in self.first:
            self._chain = (value, twin)
        return self._chain == (value, twin)

    def _check_uses(self, nodes: Collection[ir.Node], prefix: str, entering: ir.Value, leaving: ir.Value) -> None:
        """What else leaves a layer holds for all layers alike: it comes of neither hidden state nor parameters."""
        own = {entering}
        for node in nodes:
            if any(v is not None and (v in own or _under(v.name, prefix) is not None) for v in node.inputs):
                own.update(node.outputs)
        for value in own - {entering, leaving}:
            if value.is_graph_output() or any(usage.node not in nodes for usage in value.uses()):
                raise LayersDiffer(f"{value.name} of {prefix[:-1]} is used outside of it")

    def add_parameters(self, numbers: Sequence[int]) -> dict[int, dict[ir.Value, ir.Value]]:
        """Initializers without data for other layers, behind those of the second; by layer, by that of the second."""
        names = {value.name for node in self.second for value in node.outputs}
        given = list(self._graph.initializers.values())
        made: dict[int, dict[ir.Value, ir.Value]] = {number: {} for number in numbers}
        ordered: list[ir.Value] = []
        for second, block in itertools.groupby(given, lambda value: _under(value.name, self._two) is not None):
            values = list(block)
            ordered += values
            if not second:
                continue
            if any(_under(value.name, self._two) in names for value in values):
                raise LayersDiffer(f"a parameter of {self._two[:-1]} has the name of a value")
            for number in numbers:
                for value in values:
                    name = f"{self._path}.{number}.{_under(value.name, self._two)}"
                    made[number][value] = ir.Value(name=name, shape=_shape(value), type=copy.copy(value.type))
                    ordered.append(made[number][value])
        self._graph.initializers.clear()
        self._graph.initializers.update({value.name or "": value for value in ordered})
        return made

    def copy(
        self, number: int, parameters: dict[ir.Value, ir.Value], hidden: ir.Value
    ) -> tuple[list[ir.Node], ir.Value]:
        """The second layer once more, as another one that reads a hidden state; and the one that it makes."""
        prefix = f"{self._path}.{number}."
        nodes: list[ir.Node] = []
        values = {**parameters, self.entering: hidden}
        for node in self.second:
            outputs = [_copy_value(value, prefix) for value in node.outputs]
            nodes.append(
                ir.Node(
                    node.domain,
                    node.op_type,
                    [None if value is None else values.get(value, value) for value in node.inputs],
                    node.attributes.values(),
                    overload=node.overload,
                    outputs=outputs,
                    version=node.version,
                    name=f"{prefix}{node.name}",
                    doc_string=node.doc_string,
                    metadata_props=self._metadata(node, prefix),
                )
            )
            values.update(zip(node.outputs, outputs, strict=True))
        return nodes, values[self.leaving]

    def _metadata(self, node: ir.Node, prefix: str) -> dict[str, str]:
        """The same place in another layer. The traced program has no node for it."""
        found = {key: text for key, text in node.metadata_props.items() if key != _FX_NODE}
        for key in (SCOPES, _NAMESPACE):
            if key in found:
                # A scope is a module path: the layer's own ends where a quote or colon follows.
                text = found[key].replace(self._two, prefix)
                for end in ("'", ":"):
                    text = text.replace(self._two[:-1] + end, prefix[:-1] + end)
                found[key] = text
        return found


def _copy_value(value: ir.Value, prefix: str) -> ir.Value:
    made = ir.Value(
        name=f"{prefix}{value.name}",
        shape=_shape(value),
        type=copy.copy(value.type),
        doc_string=value.doc_string,
        const_value=value.const_value,
    )
    made.metadata_props.update(value.metadata_props)
    return made


def _shape(value: ir.Value) -> ir.Shape | None:
    return None if value.shape is None else value.shape.copy()


def _scopes(node: ir.Node) -> list[str]:
    found: list[str] = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    return found


def _place(node: ir.Node, prefix: str) -> tuple[object, ...]:
    """Modules, from a layer on by their place in it, their classes, and the lines of code."""
    modules = [_under(f"{scope}.", prefix) or scope for scope in _scopes(node)[:-1]]
    modules = ["" if scope == prefix[:-1] else scope for scope in modules]
    return modules, node.metadata_props.get(CLASSES), node.metadata_props.get(TRACE)


def _under(name: str | None, prefix: str) -> str | None:
    return name[len(prefix) :] if name is not None and name.startswith(prefix) else None


def _operation(node: ir.Node) -> tuple[object, ...]:
    return (*node.op_identifier(), node.version, [(value.dtype, str(value.shape)) for value in node.outputs])


def _attributes_equal(node: ir.Node, other: ir.Node) -> bool:
    return list(map(_written, node.attributes.values())) == list(map(_written, other.attributes.values()))


def _written(attribute: ir.Attr) -> tuple[object, ...]:
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return attribute.name, tensor.dtype, tuple(tensor.shape), tensor.tobytes()
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) or attribute.is_ref():
        raise LayersDiffer(f"attribute {attribute.name} is not a plain one")
    return attribute.name, attribute.type, attribute.value


def _constants_equal(value: ir.Value, other: ir.Value) -> bool:
    node, twin = value.producer(), other.producer()
    if node is None or twin is None or node.op_type != "Constant" or twin.op_type != "Constant":
        return False
    return _attributes_equal(node, twin)
