"""A composite operator in the operators of a surface: the text of a lowering, expanded for one node."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from porting_kernels.errors import PortingError
from porting_passes.builder import Builder
from porting_passes.constraints import Subject, parse
from porting_passes.contract import Contract
from porting_passes.decomposition import Decomposition
from porting_passes.inline_body import inline
from porting_passes.node_view import dtype_name
from porting_passes.operator_rows import AttributeRow, LoweringRow, OperatorRow, OperatorSetError
from porting_passes.operator_set import OperatorSet
from porting_passes.operators import BODIES, SINCE, add_bodies
from porting_passes.operators.function_text import parse as parse_function
from porting_passes.row_check import Dims, Node, Reason
from porting_passes.stored_forms import STORED_DOMAIN

_MEANING = Contract("tolerance", 1e-5, "the same meaning; sums in another order", nonfinite=False)


def reasons_against_lowering(lowering: LoweringRow, node: Node, dims: Dims) -> list[Reason]:
    """Why the composite operator cannot be written this way, apart from what the nodes of the text are judged for."""
    source = "; ".join(lowering.source)
    attributes = {**composite_defaults(node.domain, node.op_type), **node.attributes}
    reasons: list[Reason] = []
    for entry in lowering.attributes:
        try:
            _made(entry, attributes)
        except OperatorSetError as error:
            reasons.append(Reason(f"attribute {entry.from_}", str(error.met), str(error.required), source))
    names = [value.name or "" for value in _composite(node.domain, node.op_type).inputs]
    operands = dict(zip(names, (*node.inputs, *[None] * len(names)), strict=False))
    for limit in lowering.constraints:
        if limit.expression is None:
            continue
        answer = parse(limit.expression).decide(Subject(operands, attributes, node.opset), dims)
        if not answer.holds:
            verdict = "unknown" if answer.holds is None else limit.verdict
            reasons.append(Reason(limit.text, answer.met, limit.expression, limit.source, verdict))
    return reasons


def expansion(lowering: LoweringRow, operator_set: OperatorSet, opset: int) -> Decomposition:
    """The lowering as a decomposition. Its nodes are typed by the rows of their operators."""

    def build(b: Builder, node: ir.Node) -> Sequence[ir.Value | None]:
        b.foreign = functools.partial(output_dtypes, operator_set)
        return inline(b, node, _function(lowering, node, opset))

    contract = _MEANING
    if lowering.tolerance is not None:
        value, reason = lowering.tolerance
        contract = Contract("tolerance", value, reason, nonfinite=False)
    domain, _, op_type = lowering.implements.rpartition(".")
    return Decomposition(lowering.name, op_type, build, contract, lambda rng: (), domain=domain, last_resort=False)


@functools.cache
def _composite(domain: str, op_type: str) -> ir.Function:
    if (domain, op_type) not in BODIES:
        raise OperatorSetError("a lowering of an operator that is not composite", met=f"{domain}.{op_type}")
    return BODIES[domain, op_type](SINCE[domain, op_type])


@functools.cache
def composite_defaults(domain: str, op_type: str) -> dict[str, Any]:
    """The attributes of a composite operator that have a default, with it."""
    attributes = _composite(domain, op_type).attributes.values()
    return {a.name: a.value for a in attributes if a.value is not None}


def _made(entry: AttributeRow, attributes: dict[str, Any]) -> Any:
    """The value of a further attribute. OperatorSetError for a value of the composite's that has no counterpart."""
    if entry.from_ is None:
        return entry.constant
    return entry.convert(attributes[entry.from_])


def _function(lowering: LoweringRow, node: ir.Node, opset: int) -> ir.Function:
    attributes = {n: a.value for n, a in node.attributes.items()}
    known = {**composite_defaults(node.domain, node.op_type), **attributes}
    made = tuple((entry.name, entry.type, _made(entry, known)) for entry in lowering.attributes)
    return _parsed(lowering, opset, made)


@functools.lru_cache(maxsize=256)
def _parsed(lowering: LoweringRow, opset: int, made: tuple[tuple[str, str, Any], ...]) -> ir.Function:
    domain, _, op_type = lowering.implements.rpartition(".")
    composite = _composite(domain, op_type)
    further = {name: f"{name}: {kind} = {_literal(value)}" for name, kind, value in made}
    own = [_declared(a) for a in composite.attributes.values() if a.name not in further]
    inputs = ", ".join(value.name or "" for value in composite.inputs)
    outputs = ", ".join(value.name or "" for value in composite.outputs)
    attributes = ", ".join([*own, *further.values()])
    header = f"{op_type} {f'<{attributes}>' if attributes else ''} ({inputs}) => ({outputs})"
    return parse_function(f"{header} {{\n{lowering.text}\n}}", opset, domain, others=(STORED_DOMAIN,))


def _declared(attribute: ir.Attr) -> str:
    """An attribute of a function's header, with its default."""
    if attribute.value is None:
        return attribute.name
    return f"{attribute.name}: {attribute.type.name.lower()} = {_literal(attribute.value)}"


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def body_function(row: OperatorRow, opset: int) -> ir.Function:
    """The meaning of a surface's own operator as a function of the row's form, its nodes at ``opset``.

    PortingError for a row without a body, and for text that ONNX does not read.
    """
    if not row.body:
        raise PortingError(f"row {row.name} has no body")
    names = [", ".join(operand.name for operand in operands or ()) for operands in (row.inputs, row.outputs)]
    declared = [a.name if a.default is None else f"{a.name}: {a.type} = {_literal(a.default)}" for a in row.attributes]
    attributes = f"<{', '.join(declared)}>" if declared else ""
    text = f"{row.operator} {attributes} ({names[0]}) => ({names[1]}) {{\n{row.body}\n}}"
    return parse_function(text, opset, row.domain, overload=row.form, others=("porting",))


def add_surface_bodies(model: ir.Model, operator_set: OperatorSet) -> None:
    """Give every operator of the surface's own that the model uses its function body, and those that it is made of."""
    opset = model.opset_imports[""]
    for node in model.graph.all_nodes():
        row = operator_set.form(node.domain, node.op_type, node.overload)
        if row is not None and row.body and node.op_identifier() not in model.functions:
            model.functions[node.op_identifier()] = body_function(row, opset)
    add_bodies(model)


def output_dtypes(operator_set: OperatorSet, node: ir.Node) -> list[ir.DataType | None]:
    """The output dtypes of a surface's own operator, by the first combination that its operands and attributes fit."""
    unknown: list[ir.DataType | None] = [None] * len(node.outputs)
    row = operator_set.form(node.domain, node.op_type, node.overload)
    if row is None or row.outputs is None:
        return unknown
    met = [None if v is None or v.dtype is None else dtype_name(v.dtype) for v in node.inputs]
    met += [None] * (len(row.inputs or ()) - len(met))
    chosen = node.attributes.get("output_dtype")
    wanted = None if chosen is None or chosen.is_ref() else dtype_name(ir.DataType(chosen.as_int()))
    for combination in row.combinations or [tuple((o.dtypes or (None,))[0] for o in row.operands)]:
        given, results = combination[: len(met)], combination[len(met) :]
        fits = all(m is None or g is None or m == g for m, g in zip(met, given, strict=True))
        if fits and (wanted is None or results[0] == wanted):
            return [None if name is None else DTYPES[name] for name in results[: len(node.outputs)]]
    return unknown


DTYPES = {dtype_name(dtype): dtype for dtype in ir.DataType if dtype != ir.DataType.UNDEFINED}
"""The name that operator sets use -> dtype."""
