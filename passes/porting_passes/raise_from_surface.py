"""A surface's own operators -> the composite operators that its rows say they implement.

The reader of an emitted file: it knows the file and the operator set, not the pass that wrote the file. A row fits a
node when it names the node's operator and the dtypes of its operands.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_kernels.packers import PACKERS
from porting_passes.constants import constant_of
from porting_passes.node_view import dtype_name
from porting_passes.operator_set import AttributeRow, OperandRow, OperatorRow, OperatorSet
from porting_passes.schemas import schema
from porting_passes.splice import Names, ReplacementTape, splice

RULE = "raise_from_surface"


class RaiseError(PortingError):
    """A vendor node whose attributes say something that its composite operator cannot."""


class RaiseFromSurface(ir.passes.InPlacePass):
    """Replace every node that a row with ``implements`` fits.

    1. Packed constants are unpacked, attributes renamed and recoded; an attribute that is absent has the row's
       default.
    2. An attribute that has no part in the composite operator and is not at its default is a RaiseError: it must not
       be ignored.
    3. A surface whose quantizer has an offset does not repeat it at the consumer: the integer operator that reads
       such a value gets the offset as its zero point.
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
        opset = model.opset_imports.get("", 1)
        modified = False
        for node in list(model.graph.all_nodes()):
            key = (node.domain, node.op_type)
            row = next((r for r in self._rows.get(key, ()) if _fits(node, r, key in self._vendor_only)), None)
            if row is not None:
                _raise(node, row, names, opset)
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


def _raise(node: ir.Node, row: OperatorRow, names: Names, opset: int) -> None:
    graph = node.graph
    assert graph is not None
    assert row.implements is not None
    domain, _, op_type = row.implements.rpartition(".")
    tape = ReplacementTape()
    inputs: list[ir.Value | None] = []
    for index, (value, entry) in enumerate(zip(node.inputs, row.inputs or (), strict=False)):
        place = index if entry.operand is None else int(entry.operand)
        inputs += [None] * (place + 1 - len(inputs))
        inputs[place] = _unpacked(value, entry, tape)
    attributes = _attributes(node, row, opset)
    offset = _offset(inputs[0])
    if offset and op_type in _ZERO_POINT:
        attributes[_ZERO_POINT[op_type]] = offset
    output = node.outputs[0]
    new = getattr(tape, op_type)(*inputs, _domain=domain, **attributes)
    if output.dtype is None and op_type in _RESULT:
        # A file need not say the dtypes of inner values; the next row is chosen by them.
        output.dtype = _RESULT[op_type]
    splice(graph, node, [node], [output], tape, [new], RULE, names)


_ZERO_POINT = {"IntegerConv": "x_zero_point", "IntegerMatMul": "a_zero_point"}
_RESULT = {
    "Quantize": ir.DataType.INT8,
    "IntegerConv": ir.DataType.INT32,
    "IntegerMatMul": ir.DataType.INT32,
}


def _offset(value: ir.Value | None) -> int:
    """The offset of the quantizer that makes a value; 0 for any other value."""
    maker = None if value is None else value.producer()
    if maker is None or (maker.domain, maker.op_type) != ("porting", "Quantize"):
        return 0
    return maker.attributes.get_int("offset", 0)


def _attributes(node: ir.Node, row: OperatorRow, opset: int) -> dict[str, Any]:
    """The composite's attributes. RaiseError for one that would be lost."""
    attributes: dict[str, Any] = {}
    entries = {entry.name: entry for entry in row.attributes}
    for entry in row.attributes:
        if entry.from_ is not None:
            given = node.attributes.get(entry.name)
            value = entry.default if given is None else given.value
            if value is not None:
                attributes[entry.from_] = _recoded(entry, value)
    for name, given in node.attributes.items():
        entry = entries.get(name, AttributeRow(name, ""))
        if entry.from_ is not None:
            continue
        allowed = [v for v in (entry.constant, entry.default, _schema_default(node, name, opset)) if v is not None]
        if given.value not in allowed:
            raise RaiseError(
                f"{node.op_type}: {row.implements} has no form of attribute {name}",
                required=" or ".join(str(v) for v in allowed) or "absent",
                met=given.value,
                where=node.name,
            )
    return attributes


def _schema_default(node: ir.Node, name: str, opset: int) -> Any:
    found = schema(node.domain, node.op_type, opset)
    if found is None or name not in found.attributes or not found.attributes[name].default_value.name:
        return None
    value = onnx.helper.get_attribute_value(found.attributes[name].default_value)
    return value.decode() if isinstance(value, bytes) else value


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
