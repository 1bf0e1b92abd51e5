"""The float32 form and the narrow form of each value, each made when first asked for."""

from __future__ import annotations

import onnx_ir as ir

from porting_kernels.errors import DtypeError
from porting_passes import operators, provenance
from porting_passes.constants import constant_of
from porting_passes.convert_weights import narrowed
from porting_passes.inference import infer_outputs
from porting_passes.schemas import schema
from porting_passes.scopes import subgraphs
from porting_passes.splice import Names

RULE = "convert_dtype"
WIDE = ir.DataType.FLOAT


def takes(node: ir.Node, index: int | None, dtype: ir.DataType, opset: int) -> bool:
    """Whether the schema in force lets input ``index`` (None: the first output) be of a floating ``dtype``."""
    if (letters := operators.TYPES.get((node.domain, node.op_type))) is not None:
        return letters[1][0] in "TA" if index is None else letters[0][index] == "T"
    found = schema(node.domain, node.op_type, opset)
    if found is None:
        return False
    formals = found.outputs if index is None else found.inputs
    formal = formals[min(index or 0, len(formals) - 1)]
    allowed = next((c.allowed_type_strs for c in found.type_constraints if c.type_param_str == formal.type_str), None)
    tensor = f"tensor({dtype.name.lower()})"
    forms = {tensor, f"seq({tensor})", f"optional({tensor})", f"optional(seq({tensor}))"}
    return not forms.isdisjoint(allowed or [formal.type_str])


class TypedValues:
    """Both forms of every float32 value of a model while it is converted.

    A node's result has one form by its producer and gets the other through a Cast right behind it; a graph input is
    wide; a constant is wide and its narrow form is another constant. wide: nodes that compute in float32 although their
    schema takes less.
    """

    def __init__(self, model: ir.Model, target: ir.DataType, wide: frozenset[ir.Node] = frozenset()) -> None:
        self._kept = wide
        self._model = model
        self._target = target
        self._suffix = target.name.lower()
        self._names = Names(model)
        self._narrow: dict[ir.Value, ir.Value] = {}
        self._wide: dict[ir.Value, ir.Value] = {}
        self._constants: list[ir.Value] = []

    def is_constant(self, node: ir.Node) -> bool:
        """Whether the node is a float32 Constant, which is converted like a weight."""
        return node.op_type == "Constant" and node.domain == "" and node.outputs[0].dtype == WIDE

    def declare_narrow(self, value: ir.Value) -> None:
        """A float32 value whose producer now gives the narrow form."""
        if value.dtype == WIDE:
            value.type = ir.TensorType(self._target)  # a clone of the model shares the old one
            self._narrow[value] = value

    def narrow(self, value: ir.Value) -> ir.Value:
        """The narrow form; the value itself when it never was float32."""
        if value.dtype != WIDE:
            return value
        if value not in self._narrow:
            tensor = constant_of(value)
            made = self._cast(value, self._target) if tensor is None else self._constant(value, tensor)
            self._narrow[value] = made
        return self._narrow[value]

    def wide(self, value: ir.Value) -> ir.Value:
        """The float32 form; the value itself when its producer gives it, or when it is of another type."""
        if value not in self._narrow or value.dtype == WIDE:
            return value
        if value not in self._wide:
            self._wide[value] = self._cast(value, WIDE)
        return self._wide[value]

    def retype(self, node: ir.Node, opset: int) -> None:
        """Give a node operands in the forms its schema takes, and note in which form its results come."""
        for index, value in enumerate(node.inputs):
            if value is not None and (value.dtype == WIDE or value in self._narrow):
                narrow = node not in self._kept and takes(node, index, self._target, opset)
                form = self.narrow(value) if narrow else self.wide(value)
                if form is not value:
                    node.replace_input_with(index, form)
        results = [value for value in node.outputs if value.dtype == WIDE]
        if not results:
            return
        if any(True for _ in subgraphs(node)):
            if not takes(node, None, self._target, opset):
                raise DtypeError(
                    f"{node.op_type} at opset {opset} does not pass {self._suffix} on",
                    where=provenance.place(node.outputs[0]),
                    fix="a newer opset",
                )
            for value in results:
                self.declare_narrow(value)
            return
        for value, dtype in zip(node.outputs, self._result_types(node, opset), strict=True):
            if dtype == self._target:
                self.declare_narrow(value)

    def finish(self) -> None:
        """float32 at the graph's outputs, under their names; weights that only exist in one form keep their names."""
        graph = self._model.graph
        for index, value in enumerate(graph.outputs):
            if value in self._narrow and value.dtype == self._target:
                name = value.name or f"output_{index}"
                wide = self.wide(value)
                value.name = self._names.unique(f"{name}/{self._suffix}")
                graph.outputs[index] = wide
                wide.name = name
        for value in self._constants:
            self._drop_if_unused(value)

    def _drop_if_unused(self, value: ir.Value) -> None:
        if value.uses() or value.is_graph_output():
            return
        name = value.name or ""
        node, graph = value.producer(), value.graph
        if node is not None and node.graph is not None:
            node.graph.remove(node, safe=True)
        elif graph is not None:
            del graph.initializers[name]
        self._narrow[value].name = name

    def _result_types(self, node: ir.Node, opset: int) -> list[ir.DataType | None]:
        """Result dtypes by the schema's type variables, or by inference where the inputs do not bind one."""
        if (letters := operators.TYPES.get((node.domain, node.op_type))) is not None:
            operands = zip(letters[0], node.inputs, strict=False)
            common = next((value.dtype for letter, value in operands if letter == "T" and value is not None), None)
            named = next((node.attributes[n].as_int() for n in ("to", "dtype") if n in node.attributes), WIDE)
            types = {"T": common, "F": WIDE, "A": ir.DataType(named)}
            return [types.get(letter, value.dtype) for letter, value in zip(letters[1], node.outputs, strict=False)]
        found = schema(node.domain, node.op_type, opset)
        if found is None:
            return [value.dtype for value in node.outputs]
        bound: dict[str, ir.DataType | None] = {"tensor(float)": WIDE}
        for index, value in enumerate(node.inputs):
            formal = found.inputs[min(index, len(found.inputs) - 1)]
            if value is not None and formal.is_homogeneous:
                bound.setdefault(formal.type_str, value.dtype)
        formals = [found.outputs[min(i, len(found.outputs) - 1)].type_str for i in range(len(node.outputs))]
        if all(formal in bound for formal in formals):
            return [bound[formal] for formal in formals]
        inferred = [dtype for dtype, _ in infer_outputs(node, opset)]
        narrow = any(value is not None and value.dtype == self._target for value in node.inputs)
        fallback = self._target if narrow else None
        return [dtype or bound.get(formal) or fallback for dtype, formal in zip(inferred, formals, strict=True)]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A Cast right behind the producer of ``value`` (or at the start of its graph)."""
        node = ir.node("Cast", [value], {"to": int(dtype)})
        result = node.outputs[0]
        result.name = self._names.unique(f"{value.name}/{dtype.name.lower()}")
        node.name = self._names.unique(f"{value.name}/Cast")
        result.type, result.shape = ir.TensorType(dtype), value.shape
        provenance.inherit(result, [value], RULE, equal=True)
        graph, producer = value.graph, value.producer()
        if graph is None:
            raise DtypeError("a value that belongs to no graph", where=value.name)
        if producer is not None:
            graph.insert_after(producer, [node])
        elif len(graph):
            graph.insert_before(graph[0], [node])
        else:
            graph.append(node)
        return result

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        graph = value.graph
        if graph is None:
            raise DtypeError("a constant that belongs to no graph", where=value.name)
        name = self._names.unique(f"{value.name}/{self._suffix}")
        data = narrowed(tensor, self._target, name)
        made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self._target), const_value=data)
        graph.register_initializer(made)
        provenance.inherit(made, [value], RULE, equal=True)
        self._constants.append(value)
        return made
