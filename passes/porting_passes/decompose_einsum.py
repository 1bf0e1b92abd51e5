"""Einsum of one or two operands by Transpose, ReduceSum, Reshape and MatMul."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import Dims, dims_of
from porting_passes.node_facts import attribute

_SUMS = Contract("tolerance", 2e-6, "sums in another order", nonfinite=False)


@dataclasses.dataclass(frozen=True)
class Equation:
    """Labels of each operand and of the result; ``extents`` by label, None or a symbol where not a number."""

    operands: tuple[str, ...]
    result: str
    extents: dict[str, int | str | None]


def parse(node: ir.Node) -> Equation | str:
    """The equation of an Einsum, or why it is outside this file: ellipses, repeated labels, unknown ranks."""
    text = attribute(node, "equation").replace(" ", "")
    if "." in text:
        return "the equation has an ellipsis"
    left, arrow, result = text.partition("->")
    terms = tuple(left.split(","))
    if not arrow:
        letters = sorted(set(left) - {","})
        result = "".join(letter for letter in letters if left.count(letter) == 1)
    if any(len(set(term)) != len(term) for term in terms):
        return "an operand repeats a label"
    extents: dict[str, int | str | None] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        dims: Dims | None = None if value is None else dims_of(value)
        if dims is None or len(dims) != len(term):
            return "the rank of an operand is unknown"
        for label, dim in zip(term, dims, strict=True):
            if extents.get(label) == 1 != dim or (dim == 1 and extents.get(label, 1) != 1):
                return f"label {label} is broadcast"
            extents[label] = dim if isinstance(dim, int) or label not in extents else extents[label]
    return Equation(terms, result, extents)


def _applies(node: ir.Node, opset: int) -> str | None:
    equation = parse(node)
    if isinstance(equation, str):
        return equation
    if len(equation.operands) > 2:
        return "it has more than two operands"
    if len(equation.operands) == 1:
        return None
    for labels in (*_groups(equation), equation.result):
        if sum(not isinstance(equation.extents[label], int) for label in labels) > 1:
            return "more than one extent that has to be merged is unknown"
    unknown = sum(not isinstance(extent, int) for extent in equation.extents.values())
    return None if unknown <= 1 else "more than one extent is unknown"


def _groups(equation: Equation) -> tuple[str, str, str, str]:
    """Batch, rows (first only), columns (second only) and contracted labels, in the result's order."""
    first, second = equation.operands
    order = {label: index for index, label in enumerate(equation.result)}
    ordered = sorted(equation.extents, key=lambda label: order.get(label, len(order)))
    both = [label for label in ordered if label in first and label in second]
    batch = "".join(label for label in both if label in order)
    inner = "".join(label for label in both if label not in order)
    rows = "".join(label for label in ordered if label in first and label not in second and label in order)
    columns = "".join(label for label in ordered if label in second and label not in first and label in order)
    return batch, rows, columns, inner


def _sum_out(b: Builder, x: ir.Value, labels: str, keep: str) -> tuple[ir.Value, str]:
    """Sum over the labels that nothing else mentions."""
    gone = [index for index, label in enumerate(labels) if label not in keep]
    if not gone:
        return x, labels
    return b.reduce("ReduceSum", x, gone, keepdims=False), "".join(label for label in labels if label in keep)


def _merged(labels: str, extents: dict[str, int | str | None]) -> int:
    product = 1
    for label in labels:
        extent = extents[label]
        if not isinstance(extent, int):
            return -1
        product *= extent
    return product


def _matrix(
    b: Builder, x: ir.Value, labels: str, groups: Sequence[str], extents: dict[str, int | str | None]
) -> ir.Value:
    """``x`` with its axes in the order of ``groups``, each group merged to one axis."""
    x = b.transpose(x, [labels.index(label) for label in "".join(groups)])
    if all(len(group) == 1 for group in groups):
        return x
    return b.reshape(x, [_merged(group, extents) for group in groups])


def _build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Two operands: [batch, rows, inner] @ [batch, inner, columns], then the axes of the result in its order."""
    equation = parse(node)
    assert not isinstance(equation, str), equation
    values = [value for value in node.inputs if value is not None]
    if len(values) == 1:
        x, labels = _sum_out(b, values[0], equation.operands[0], equation.result)
        return [b.transpose(x, [labels.index(label) for label in equation.result])]
    first, second = equation.operands
    x, first = _sum_out(b, values[0], first, second + equation.result)
    y, second = _sum_out(b, values[1], second, first + equation.result)
    batch, rows, columns, inner = _groups(equation)
    left = _matrix(b, x, first, [batch, rows, inner] if batch else [rows, inner], equation.extents)
    right = _matrix(b, y, second, [batch, inner, columns] if batch else [inner, columns], equation.extents)
    product = b.MatMul(left, right)
    labels = batch + rows + columns
    if not all(len(group) == 1 for group in ([batch] if batch else []) + [rows, columns]):
        product = b.reshape(product, [_merged(label, equation.extents) for label in labels])
    return [b.transpose(product, [labels.index(label) for label in equation.result])]


def _case(equation: str, *shapes: tuple[int, ...], applies: bool = True) -> Case:
    name = equation.replace(",", " ").replace("->", " to ")
    return Case(name, tuple(Run(shape) for shape in shapes), {"equation": equation}, applies=applies)


DECOMPOSITIONS = (
    Decomposition(
        "einsum_by_matmul",
        "Einsum",
        _build,
        _SUMS,
        examples(
            "Einsum",
            _case("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
            _case("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
            _case("bqhd,bkhd->bhqk", (2, 3, 2, 4), (2, 5, 2, 4)),
            _case("ij,jk", (3, 4), (4, 5)),
            _case("i,j->ij", (3,), (4,)),
            _case("bi,bi->b", (2, 3), (2, 3)),
            _case("abc,dc->abd", (2, 3, 4), (5, 4)),
            _case("ijk,kl->li", (2, 3, 4), (4, 5)),
            case("transpose", Run((2, 3, 4)), equation="ijk->kj"),
            _case("ij,ij->", (3, 4), (3, 4)),
            _case("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5), applies=False),
            dtypes=(ir.DataType.FLOAT,),
            opsets=(13, 18),
        ),
        _applies,
    ),
)
