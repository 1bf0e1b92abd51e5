"""Model -> plan: every node resolved to its meaning, every value to a slot, every constant converted once.

A node's meaning is looked for in this order: a kernel of its operator, an operator with graphs inside, a function of
the model, the function body of the operator's schema. Functions run as inner plans, so that an error inside one says
so.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from porting.simulation import control_flow, schema_bodies
from porting.simulation.calls import Call, at_places, call_function, promoting, reading
from porting.simulation.memory_reuse import freeing, overwriting
from porting.simulation.plan import ABSENT, Plan, Step, describe_node, place
from porting.simulation.weight_cache import CachedWeight, WeightCache
from porting.weights.row_tensor import RowTensor
from porting_kernels import dtypes, registry
from porting_kernels.errors import PortingError, UnsupportedOperatorError
from porting_kernels.numerics import Numerics

Bindings = Mapping[str, ir.Attr]
Bind = Callable[[ir.Node, Mapping[str, Any]], "Call | None"]

_GRAPH_TYPES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class Planner:
    """Makes the plans of one model under one numerics.

    bind: the call of a node that does not come from here, asked first; None for the node's own meaning. device: where
    constants are put.
    """

    def __init__(
        self,
        model: ir.Model,
        numerics: Numerics,
        cache: WeightCache,
        *,
        bind: Bind | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._functions = model.functions
        self._bind = bind
        self._device = device
        self._numerics = numerics
        self._tensors: dict[int, tuple[ir.TensorProtocol, torch.Tensor]] = {}
        self._cache = cache
        self._streamed: dict[int, CachedWeight] = {}
        self.streams = any(
            isinstance(v.const_value, RowTensor) for g in model.graphs() for v in g.initializers.values()
        )
        self._planned: dict[Any, Plan] = {}
        self._open: list[Any] = []

    def main(self, graph: ir.Graph) -> tuple[Plan, dict[ir.Value, int]]:
        """The plan of the main graph and the slot of each of its values."""
        scope = Scope(self, graph, graph.opset_imports, {})
        plan = scope.plan()
        scope.check_closed()
        return plan, scope.slots

    def tensor(self, tensor: ir.TensorProtocol) -> torch.Tensor:
        """A constant in torch, converted once; it shares the memory of the model, or of its mapped weight file."""
        known = self._tensors.get(id(tensor))
        if known is None:
            value = dtypes.to_torch(tensor.numpy())
            if self._numerics.float64:
                value = value.to(dtypes.promoted(value.dtype))
            if self._device is not None:
                value = value.to(self._device)
            # The key is an address, so the tensor is kept alive beside its value.
            known = self._tensors[id(tensor)] = (tensor, value)
        return known[1]

    def constant(self, tensor: ir.TensorProtocol) -> torch.Tensor | CachedWeight:
        """An initializer as steps find it: in memory, or where it is stored."""
        if not isinstance(tensor, RowTensor):
            return self.tensor(tensor)
        known = self._streamed.get(id(tensor))
        if known is None:
            dtype = tensor.torch_dtype
            wanted = dtypes.promoted(dtype) if self._numerics.float64 else dtype
            known = self._streamed[id(tensor)] = CachedWeight(tensor, self._cache, wanted)
        return known

    def resolve(self, node: ir.Node, opsets: Mapping[str, int], bindings: Bindings) -> Call:
        """The call that computes a node without graphs inside."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = version_of(node, domain, opsets)
        attributes = _resolved_attributes(node, bindings)
        bound = None if self._bind is None else self._bind(node, self.attribute_values(attributes))
        if bound is not None:
            return reading(bound, ()) if self.streams else bound
        kernel = registry.lookup(domain, node.op_type, version)
        if kernel is not None:
            call = self._kernel_call(node, kernel, version, attributes)
            return reading(call, kernel.streams) if self.streams else call
        function = self._functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return self._function_call(function, _with_defaults(function, attributes))
        if schema_bodies.has_body(domain, node.op_type, version):
            return self._schema_call(node, domain, version, opsets, attributes)
        raise UnsupportedOperatorError(
            f"operator {domain or 'ai.onnx'}::{node.op_type} at opset {version} has no kernel and no function body",
            met=describe_node(node),
            where=place(node),
            fix=f"add a model-local function {node.op_type!r} of domain {node.domain!r} with a body in standard ONNX "
            "to the model, or register a kernel for it with porting_kernels.registry.kernel",
        )

    def kernel_of(self, node: ir.Node, opsets: Mapping[str, int]) -> registry.Kernel | None:
        """The kernel that computes a node as it stands; None in float64, where results are promoted on their way."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        if self._numerics.float64:
            return None
        return registry.lookup(domain, node.op_type, version_of(node, domain, opsets))

    def attribute_values(self, attributes: Mapping[str, ir.Attr]) -> dict[str, Any]:
        """Attributes as kernels take them; graphs are left out."""
        return {name: self._value(a) for name, a in attributes.items() if a.type not in _GRAPH_TYPES}

    def _value(self, attribute: ir.Attr) -> Any:
        if attribute.type == ir.AttributeType.TENSOR:
            return self.tensor(attribute.value)
        if attribute.type == ir.AttributeType.TENSORS:
            return [self.tensor(tensor) for tensor in attribute.value]
        return list(attribute.value) if isinstance(attribute.value, tuple) else attribute.value

    def _kernel_call(
        self, node: ir.Node, kernel: registry.Kernel, version: int, attributes: Mapping[str, ir.Attr]
    ) -> Call:
        values = self.attribute_values(attributes)
        known = inspect.signature(kernel.function).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
        unknown = [] if takes_any else sorted(set(values) - set(known))
        if unknown:
            raise PortingError(
                f"{describe_node(node)} has attributes that its operator does not have",
                required="one of " + ", ".join(p.name for p in known.values() if p.kind is p.KEYWORD_ONLY),
                met=", ".join(unknown),
                where=place(node),
            )
        if kernel.takes_context:
            codes = tuple([None if v is None or v.dtype is None else int(v.dtype) for v in node.inputs])
            values["context"] = registry.Context(version, len(node.outputs), self._numerics, codes)
        call = functools.partial(kernel.function, **values) if values else kernel.function
        if self._numerics.float64:
            return promoting(call)
        if kernel.specialize is not None:
            call = kernel.specialize(*map(self._constant, node.inputs), **values) or call
        return call

    def _constant(self, value: ir.Value | None) -> torch.Tensor | None:
        """The value of an operand that no run can change, else None."""
        if value is None or not value.is_initializer() or value.is_graph_input():
            return None
        data = data_of(value)
        return None if isinstance(data, RowTensor) else self.tensor(data)

    def _function_call(self, function: ir.Function, bindings: Bindings) -> Call:
        key = (function.identifier(), tuple(sorted((n, a.type, _identity(a.value)) for n, a in bindings.items())))
        plan = self._planned.get(key)
        if plan is None:
            plan = self._planned[key] = self._function_plan(function, function.opset_imports, bindings)
        return functools.partial(call_function, plan, len(function.inputs))

    def _function_plan(self, function: ir.Function, opsets: Mapping[str, int], bindings: Bindings) -> Plan:
        if function.identifier() in self._open:
            raise PortingError(
                "a function calls itself", met=" -> ".join("::".join(i[:2]) for i in self._open), where=function.name
            )
        self._open.append(function.identifier())
        try:
            scope = Scope(self, function.graph, opsets, bindings)
            plan = scope.plan()
            scope.check_closed()
            return plan
        finally:
            self._open.pop()

    def _schema_call(
        self, node: ir.Node, domain: str, version: int, opsets: Mapping[str, int], attributes: dict[str, ir.Attr]
    ) -> Call:
        attributes = {**schema_bodies.defaults(domain, node.op_type, version), **attributes}
        plans: dict[tuple[Any, ...], Call] = {}

        def typed(*operands: torch.Tensor | None) -> Any:
            key = tuple([None if operand is None else (operand.dtype, operand.shape) for operand in operands])
            call = plans.get(key)
            if call is None:
                call = plans[key] = self._schema_body(node, domain, version, opsets, attributes, operands)
            return call(*operands)

        if schema_bodies.depends_on_types(domain, node.op_type, version):
            return typed
        return self._schema_body(node, domain, version, opsets, attributes, ())

    def _schema_body(
        self,
        node: ir.Node,
        domain: str,
        version: int,
        opsets: Mapping[str, int],
        attributes: dict[str, ir.Attr],
        operands: Sequence[torch.Tensor | None],
    ) -> Call:
        body = schema_bodies.body(node, domain, version, list(attributes.values()), operands)
        if body is None:
            raise UnsupportedOperatorError(
                f"the function body of {node.op_type} at opset {version} does not exist for these operands",
                met=", ".join(map(dtypes.describe, operands)),
            )
        # A body of another domain may leave the version of ONNX's operators to the model.
        plan = self._function_plan(body.function, {**opsets, **body.function.opset_imports}, attributes)
        call = functools.partial(call_function, plan, len(body.function.inputs))
        if body.outputs == tuple(range(len(body.outputs))):
            return call
        return lambda *operands: at_places(call(*operands), body.outputs)


class Scope:
    """One graph being planned. Values of graphs around it become further parameters, in order of first use."""

    def __init__(self, planner: Planner, graph: ir.Graph, opsets: Mapping[str, int], bindings: Bindings) -> None:
        self._planner = planner
        self._graph = graph
        self._opsets = opsets
        self._bindings = bindings
        self._own = {value for node in graph for value in node.outputs}
        self._constants: dict[int, Any] = {ABSENT: None}
        self._count = 1
        self.slots: dict[ir.Value, int] = {}
        self.captures: list[ir.Value] = []

    def plan(self) -> Plan:
        """Plan all nodes of the graph."""
        inputs = [self._new_slot(value) for value in self._graph.inputs]
        steps: list[Step] = []
        for node in self._graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                slot = self._new_slot(node.outputs[0])
                self._constants[slot] = self._planner.resolve(node, self._opsets, self._bindings)()
                continue
            steps.append(self._step(node))
        results = [self._slot(value) for value in self._graph.outputs]
        parameters = inputs + [self.slots[value] for value in self.captures]
        freed = freeing(steps, kept={*self._constants, *results})
        return Plan(
            overwriting(freed, lambda node: self._planner.kernel_of(node, self._opsets)),
            slots=self._count,
            parameters=parameters,
            results=results,
            constants=self._constants,
        )

    def check_closed(self) -> None:
        """Raise PortingError if the graph uses values that nothing around it can give."""
        if self.captures:
            raise PortingError(
                f"graph {self._graph.name!r} uses values that no node, input or initializer gives",
                met=", ".join(repr(value.name) for value in self.captures),
            )

    def _new_slot(self, value: ir.Value) -> int:
        slot = self.slots[value] = self._count
        self._count += 1
        return slot

    def _slot(self, value: ir.Value | None) -> int:
        if value is None:
            return ABSENT
        slot = self.slots.get(value)
        if slot is not None:
            return slot
        if value in self._own:
            raise PortingError(
                f"value {value.name!r} is used before it is computed", required="nodes in topological order"
            )
        slot = self._new_slot(value)
        if value.is_initializer() and not value.is_graph_input():
            self._constants[slot] = self._planner.constant(data_of(value))
        else:
            self.captures.append(value)
        return slot

    def _step(self, node: ir.Node) -> Step:
        graphs = {name: a.as_graph() for name, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH}
        inputs = [self._slot(value) for value in node.inputs]
        if graphs and control_flow.handles("" if node.domain == "ai.onnx" else node.domain, node.op_type):
            call, captured = self._control_call(node, graphs)
            inputs += captured
        else:
            call = self._planner.resolve(node, self._opsets, self._bindings)
        outputs = tuple([self._new_slot(value) for value in node.outputs])
        return Step(node, call, tuple(inputs), outputs, ())

    def _control_call(self, node: ir.Node, graphs: Mapping[str, ir.Graph]) -> tuple[Call, list[int]]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        captured: dict[ir.Value, int] = {}
        subgraphs = {}
        for name, graph in graphs.items():
            scope = Scope(self._planner, graph, self._opsets, self._bindings)
            plan = scope.plan()
            picks = tuple([captured.setdefault(value, len(captured)) for value in scope.captures])
            subgraphs[name] = control_flow.Subgraph(graph, plan, picks)
        attributes = self._planner.attribute_values(_resolved_attributes(node, self._bindings))
        version = version_of(node, domain, self._opsets)
        control_node = control_flow.ControlNode(subgraphs, attributes, len(node.inputs), version)
        return control_flow.build(domain, node.op_type, control_node), [self._slot(value) for value in captured]


def data_of(value: ir.Value) -> ir.TensorProtocol:
    """The data of an initializer. Raises PortingError where a model was saved without its weights."""
    if value.const_value is None:
        raise PortingError(f"initializer {value.name!r} has no data", fix="bring the model with its weights")
    return value.const_value


def version_of(node: ir.Node, domain: str, opsets: Mapping[str, int]) -> int:
    """The opset version that a node is to be read at. Raises PortingError if ONNX's own is not imported."""
    version = node.version if node.version is not None else opsets.get(domain, opsets.get(node.domain))
    if version is None and not domain:
        version = opsets.get("ai.onnx")
        if version is None:
            raise PortingError("the model imports no version of the ONNX operator set", where=describe_node(node))
    return 1 if version is None else version


def _resolved_attributes(node: ir.Node, bindings: Bindings) -> dict[str, ir.Attr]:
    """A node's attributes, those that refer to the enclosing function's replaced by what the caller gave."""
    resolved = {}
    for name, attribute in node.attributes.items():
        if attribute.ref_attr_name is None:
            resolved[name] = attribute
            continue
        bound = bindings.get(attribute.ref_attr_name)
        if bound is not None:
            resolved[name] = ir.Attr(name, bound.type, bound.value)
    return resolved


def _with_defaults(function: ir.Function, attributes: dict[str, ir.Attr]) -> dict[str, ir.Attr]:
    given = {name: attribute for name, attribute in function.attributes.items() if attribute.value is not None}
    return {**given, **attributes}


def _identity(value: Any) -> Any:
    """Something equal for equal attribute values: numbers, text and tuples of them as they are, others by address."""
    return value if isinstance(value, int | float | str | tuple) else id(value)
