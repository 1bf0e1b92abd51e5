"""Composite operators -> the surface's own, as the rows of its operator set say."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_kernels.packers import PACKERS
from porting_passes import provenance
from porting_passes.constants import constant_of
from porting_passes.decomposition import decompose_node
from porting_passes.eliminate_dead_code import EliminateDeadCode
from porting_passes.legality import Dims, Legal, check, reasons_against_nodes
from porting_passes.lowering import expansion, reasons_against_lowering
from porting_passes.node_view import view
from porting_passes.operator_set import LoweringRow, OperandRow, OperatorRow, OperatorSet, qualified
from porting_passes.rewrite import Applied, RewriteResult
from porting_passes.row_check import reasons_against
from porting_passes.splice import Names, ReplacementTape, splice
from porting_passes.stored import is_stored

RULE = "lower_to_surface"


class LowerToSurface(ir.passes.InPlacePass):
    """porting.X  ->  the operator of the first row that implements X and against which nothing illegal speaks.

    1. Operands are taken in the row's order, in the row's packed form; attributes are renamed and recoded.
    2. A bias of zeros is left out where the row can do without; one element is spread over the channels.
    3. A row without a place for the bias says which node adds it (``follow``).
    4. No row implements the operator and the surface takes it as it is: leave it.
    5. A surface of Python calls says in its lowerings how a composite operator is written in several nodes: the first
       one whose nodes are all legal is expanded in place.

    dims: symbol -> (least, greatest) size, as the legality check was given them.
    """

    def __init__(self, operator_set: OperatorSet, dims: Dims | None = None) -> None:
        super().__init__()
        self._operator_set = operator_set
        self._dims = dims or {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower in place. PortingError for an operand that the row packs and that is no constant."""
        opset = model.opset_imports.get("", 1)
        names = Names(model)
        applied: list[Applied] = []
        # Rows look at neighbours in their composite form, so all are chosen before the first is replaced.
        chosen = [(node, self._row(node, opset)) for node in model.graph.all_nodes() if node.domain == "porting"]
        for node, row in chosen:
            if isinstance(row, LoweringRow):
                applied.append(self._expand(node, row, opset, names))
            elif row is not None:
                _lower(node, row, names)
        left = any(node.domain == "porting" for node in model.graph.all_nodes())
        if not left:
            model.opset_imports.pop("porting", None)
        for domain in {row.domain for row in self._operator_set.rows if row.call}:
            model.opset_imports.setdefault(domain, 1)
        EliminateDeadCode()(model)
        return RewriteResult(model, any(row is not None for _, row in chosen), applied)

    def _expand(self, node: ir.Node, lowering: LoweringRow, opset: int, names: Names) -> Applied:
        sources = tuple(dict.fromkeys(s for v in node.outputs for s in provenance.of(v).sources or (v.name or "",)))
        how = expansion(lowering, self._operator_set, opset)
        operands = [value for value in node.inputs if value is not None and value.is_initializer()]
        decompose_node(node, how, opset, names)
        for value in operands:
            _behind_what_it_was_made_with(value)
        return Applied(how.name, how.contract, sources)

    def _row(self, node: ir.Node, opset: int) -> OperatorRow | LoweringRow | None:
        """The row that accepts the node; else, for a node that was let through, one with unknown points only."""
        verdict = check(node, self._operator_set, opset, self._dims)
        if isinstance(verdict, Legal):
            return verdict.lowering or verdict.row
        seen = view(node, opset)
        for lowering in self._operator_set.lowerings_of(node.domain, node.op_type):
            reasons = reasons_against_lowering(lowering, seen, self._dims)
            reasons += [] if reasons else reasons_against_nodes(lowering, node, self._operator_set, opset, self._dims)
            if all(reason.verdict == "unknown" for reason in reasons):
                return lowering
        rows = self._operator_set.implementing(qualified(node.domain, node.op_type))
        for row in rows:
            if all(
                reason.verdict == "unknown" for reason in reasons_against(row, seen, self._operator_set, self._dims)
            ):
                return row
        return rows[0] if rows else None


def _behind_what_it_was_made_with(value: ir.Value) -> None:
    """An operand that stays goes behind the constants that were made of its node's: codes are read before scales.

    A lazy weight is quantized as its codes are read, and keeps the scales of that pass until they are asked for.
    """
    if isinstance(value.graph, ir.Graph) and value.uses() and is_stored(value.const_value):
        initializers = value.graph.initializers
        initializers[value.name or ""] = initializers.pop(value.name or "")


def _lower(node: ir.Node, row: OperatorRow, names: Names) -> None:
    graph, output = node.graph, node.outputs[0]
    assert graph is not None
    tape = ReplacementTape()
    inputs = [_operand(node, index, entry, tape) for index, entry in enumerate(row.inputs or ())]
    while inputs and inputs[-1] is None:
        inputs.pop()
    attributes: dict[str, Any] = {}
    for entry in row.attributes:
        if entry.from_ is not None and entry.from_ in node.attributes:
            attributes[entry.name] = entry.convert(node.attributes[entry.from_].value)
        elif entry.constant is not None:
            attributes[entry.name] = entry.constant
    new = getattr(tape, row.operator)(*inputs, _domain=row.domain, **attributes)
    if row.follow is not None:
        bias = _bias(node, row.follow.operand, tape)
        if bias is not None:
            new.dtype, new.shape = output.dtype, output.shape
            new = getattr(tape, row.follow.operator)(new, bias)
    operands = [value for value in node.inputs if value is not None]
    splice(graph, node, [node], [output], tape, [new], RULE, names)
    for value in operands:
        if value.is_initializer() and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(value.name or "", None)


def _operand(node: ir.Node, index: int, entry: OperandRow, tape: ReplacementTape) -> ir.Value | None:
    place = index if entry.operand is None else int(entry.operand)
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is not None and entry.optional and node.op_type.startswith("Integer") and place == 2:
        return _bias(node, place, tape)
    if value is None or entry.packer is None:
        return value
    tensor = constant_of(value)
    if tensor is None:
        raise PortingError(f"operand {entry.name} of {node.op_type} is packed and must be a constant", where=node.name)
    return tape.constant(PACKERS[entry.packer].pack(tensor.numpy()), f"{value.name}/{entry.packer}")


def _bias(node: ir.Node, place: int, tape: ReplacementTape) -> ir.Value | None:
    """The int32 bias, a constant one with an element a channel; None where it adds nothing."""
    value = node.inputs[place] if place < len(node.inputs) else None
    tensor, weight = constant_of(value), constant_of(node.inputs[1])
    if tensor is None or weight is None:
        return value
    array = tensor.numpy().reshape(-1)
    if not array.any():
        return None
    channels = weight.shape.numpy()[0 if node.op_type == "IntegerConv" else -1]
    return tape.constant(np.broadcast_to(array, (channels,)).copy(), f"{node.outputs[0].name}/bias")
