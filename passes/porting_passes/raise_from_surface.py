"""A surface's own operators -> the composite operators that its rows say they implement.

The reader of an emitted file: it knows the file and the operator set, not the pass that wrote the file. A row fits a
node when it names the node's operator and the dtypes of its operands.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_kernels.packers import PACKERS
from porting_passes.constants import constant_of
from porting_passes.node_view import dtype_name
from porting_passes.operator_set import AttributeRow, OperandRow, OperatorRow, OperatorSet
from porting_passes.splice import Names, ReplacementTape, splice

RULE = "raise_from_surface"


class RaiseError(PortingError):
    """A vendor node whose attributes say something that its composite operator cannot."""


class RaiseFromSurface(ir.passes.InPlacePass):
    """Replace every node that a row with ``implements`` fits.

    1. Packed constants are unpacked, attributes renamed and recoded; an attribute that is absent has the row's
       default.
    2. An attribute that the row fixes and the file sets otherwise is a RaiseError: it must not be ignored.
    """

    def __init__(self, operator_set: OperatorSet) -> None:
        super().__init__()
        self._rows: dict[tuple[str, str], list[OperatorRow]] = {}
        for row in operator_set.rows:
            if row.implements is not None:
                self._rows.setdefault((row.domain, row.operator), []).append(row)
        plain = {(row.domain, row.operator) for row in operator_set.rows if row.implements is None}
        self._vendor_only = set(self._rows) - plain

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raise in place."""
        names = Names(model)
        modified = False
        for node in list(model.graph.all_nodes()):
            key = (node.domain, node.op_type)
            row = next((r for r in self._rows.get(key, ()) if _fits(node, r, key in self._vendor_only)), None)
            if row is not None:
                _raise(node, row, names)
                modified = True
        if modified:
            model.opset_imports.setdefault("porting", 1)
        return ir.passes.PassResult(model, modified)


def _fits(node: ir.Node, row: OperatorRow, vendor_only: bool) -> bool:
    """Whether no operand's dtype, as far as the file says it, is another than the row's, and at least one is known.

    An operator that only vendor rows name needs no known dtype.
    """
    known = 0
    for value, entry in zip(node.inputs, row.inputs or (), strict=False):
        dtype = None if value is None else value.dtype
        if dtype is None or entry.dtypes is None:
            continue
        if dtype_name(dtype) not in entry.dtypes:
            return False
        known += 1
    return known > 0 or vendor_only


def _raise(node: ir.Node, row: OperatorRow, names: Names) -> None:
    graph = node.graph
    assert graph is not None and row.implements is not None
    domain, _, op_type = row.implements.rpartition(".")
    tape = ReplacementTape()
    inputs: list[ir.Value | None] = []
    for index, (value, entry) in enumerate(zip(node.inputs, row.inputs or (), strict=False)):
        place = index if entry.operand is None else int(entry.operand)
        inputs += [None] * (place + 1 - len(inputs))
        inputs[place] = _unpacked(value, entry, tape)
    attributes: dict[str, Any] = {}
    for attribute in row.attributes:
        given = node.attributes.get(attribute.name)
        value = attribute.default if given is None else given.value
        if attribute.from_ is not None:
            if value is not None:
                attributes[attribute.from_] = _recoded(attribute, value)
        elif attribute.constant is not None and value is not None and value != attribute.constant:
            raise RaiseError(
                f"{node.op_type}: attribute {attribute.name} says what {op_type} cannot",
                required=attribute.constant,
                met=value,
                where=node.name,
            )
    output = node.outputs[0]
    new = getattr(tape, op_type)(*inputs, _domain=domain, **attributes)
    splice(graph, node, [node], [output], tape, [new], RULE, names)


def _unpacked(value: ir.Value | None, entry: OperandRow, tape: ReplacementTape) -> ir.Value | None:
    tensor = constant_of(value)
    if value is None or entry.packer is None or tensor is None:
        return value
    return tape.constant(PACKERS[entry.packer].unpack(tensor.numpy()), f"{value.name}/unpacked")


def _recoded(attribute: AttributeRow, value: Any) -> Any:
    """The composite's value for the row's."""
    for ours, theirs in attribute.values:
        if theirs == value:
            return ours
    if attribute.values:
        raise RaiseError(f"attribute {attribute.name} has no counterpart", met=value)
    return int(value) if attribute.from_ == "offset" else value
