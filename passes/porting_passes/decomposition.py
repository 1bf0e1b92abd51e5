"""One way to express an operator by other operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder, BuildError
from porting_passes.contract import FLOATS, Contract, Example
from porting_passes.inference import signature_error
from porting_passes.node_facts import used
from porting_passes.splice import Names, discard, splice

OPSETS = (11, 13, 18, 24)
"""Opsets at which examples are made: the oldest supported one and one after each change of axes forms and operators."""


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """A candidate that the legalizer tries for an operator.

    applies(node, opset): None when it applies, else why not. It may look at types, attributes and constants of at
    most 64 elements, nothing else: the answer is reused for equal nodes.
    build(builder, node): emits the nodes and returns one value per output of ``node`` (None for an unused one; an
    input value or a constant is allowed). The nodes it emits depend on the same facts as ``applies`` only. Raises
    BuildError where the opset has no form.
    last_resort: considered only when no other candidate gives a legal form, because its contract excludes something.
    variant: the same operator in another form, which counts only where that is legal as it stands: two variants that
    lead to each other are no way out.
    """

    name: str
    op_type: str
    build: Callable[[Builder, ir.Node], Sequence[ir.Value | None]]
    contract: Contract
    examples: Callable[[np.random.Generator], Iterable[Example]]
    applies: Callable[[ir.Node, int], str | None] = lambda node, opset: None
    domain: str = ""
    last_resort: bool = False
    variant: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """A run-time operand of an example: shape (a str is a symbol) and dtype."""

    shape: tuple[int | str, ...]
    dtype: ir.DataType = ir.DataType.FLOAT


Operand = Run | np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Case:
    """Operands (arrays are constants) and attributes of a node on which a decomposition is tried.

    values: run-time values by operand index, where random data does not fit. opsets: of those of OPSETS at which the
    node is well formed. outputs: how many outputs of the node the example reads.
    """

    name: str
    operands: tuple[Operand, ...]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    applies: bool = True
    values: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    opsets: tuple[int, ...] = OPSETS
    dtypes: tuple[ir.DataType, ...] = FLOATS
    outputs: int = 1


def case(name: str, *operands: Operand, **attributes: Any) -> Case:
    """A case that applies, with nothing special about it."""
    return Case(name, operands, attributes)


def examples(op_type: str, *cases: Case, **options: Any) -> Callable[[np.random.Generator], Iterable[Example]]:
    """One-node models of the cases, at every opset where the node is well formed. ``options`` change every case."""

    def make(rng: np.random.Generator) -> Iterable[Example]:
        for one in cases:
            one = dataclasses.replace(one, **options)
            for opset in one.opsets:
                model = node_model(op_type, one, opset)
                if model is not None:
                    inputs = {f"x{index}": value for index, value in one.values.items()}
                    yield Example(f"{one.name}-opset{opset}", model, one.applies, inputs, one.dtypes)

    return make


def node_model(op_type: str, one: Case, opset: int) -> ir.Model | None:
    """A model of one node; None when the node is not well formed at the opset."""
    values: list[ir.Value | None] = []
    for index, spec in enumerate(one.operands):
        if spec is None:
            values.append(None)
        elif isinstance(spec, Run):
            shape = ir.Shape(spec.shape)
            values.append(ir.Value(name=f"x{index}", type=ir.TensorType(spec.dtype), shape=shape))
        else:
            tensor = ir.tensor(spec, name=f"c{index}")
            value = ir.Value(name=f"c{index}", type=ir.TensorType(tensor.dtype), shape=ir.Shape(spec.shape))
            value.const_value = tensor
            values.append(value)
    probe = ir.node(op_type, values, one.attributes, num_outputs=one.outputs)
    problem = signature_error(probe, opset)
    discard([probe])
    if problem is not None:
        return None
    builder = Builder(opset)
    outputs = builder.emit(op_type, values, dict(one.attributes), outputs=one.outputs)
    for index, value in enumerate(outputs):
        value.name = f"y{index}"
    present = [v for v in values if v is not None]
    graph = ir.Graph(
        [v for v in present if v.const_value is None],
        [v for v in outputs if v.name],
        nodes=builder.nodes,
        initializers=[v for v in present if v.const_value is not None],
        opset_imports={"": opset},
        name=op_type,
    )
    return ir.Model(graph, ir_version=10)


def decompose_node(node: ir.Node, decomposition: Decomposition, opset: int, names: Names) -> list[ir.Node]:
    """Replace a node of a graph by what the decomposition builds; returns the new nodes, in order.

    Raises BuildError, with the graph unchanged, when the opset has no form.
    """
    scope = node.graph
    assert scope is not None, f"{node.op_type} {node.name!r} is in no graph"
    builder, built = build(node, decomposition, opset)
    replaced = [(old, new) for old, new in zip(node.outputs, built, strict=True) if new is not None]
    splice(
        scope,
        node,
        [node],
        [old for old, _ in replaced],
        builder,
        [new for _, new in replaced],
        decomposition.name,
        names,
    )
    return builder.nodes


def build(node: ir.Node, decomposition: Decomposition, opset: int) -> tuple[Builder, Sequence[ir.Value | None]]:
    """The new nodes, detached, and the new value of each output. On BuildError nothing is left attached."""
    builder = Builder(opset)
    try:
        built = _named(builder, node, decomposition.build(builder, node))
        for old, new in zip(node.outputs, built, strict=True):
            _check_output(decomposition, old, new)
    except BuildError:
        discard(builder.nodes)
        raise
    made = {value for new in builder.nodes for value in new.outputs}
    for old, new in zip(node.outputs, built, strict=True):
        if new is not None and new in made:
            new.type, new.shape = old.type or new.type, old.shape or new.shape
    return builder, built


def _check_output(decomposition: Decomposition, old: ir.Value, new: ir.Value | None) -> None:
    """BuildError for an output that is used and not made, or made in another dtype."""
    if new is None:
        if used(old):
            raise BuildError(f"{decomposition.name} does not make output {old.name!r}, which is used")
    elif old.dtype is not None and new.dtype is not None and old.dtype != new.dtype:
        made, wanted = new.dtype.name.lower(), old.dtype.name.lower()
        raise BuildError(f"{decomposition.name} makes {made} of the {wanted} {old.name!r}")


def _named(builder: Builder, node: ir.Node, built: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """A graph output keeps its name: where an existing or shared value stands for it, that goes through Identity."""
    made = {value for new in builder.nodes for value in new.outputs}
    named: list[ir.Value | None] = []
    for old, new in zip(node.outputs, built, strict=True):
        shared = new is not None and (new not in made or new in named)
        named.append(builder.Identity(new) if shared and old.is_graph_output() else new)
    return named
