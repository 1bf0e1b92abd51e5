"""Expand, Tile, Trilu, Where and Gather with constant parameters, by Concat, Mul, Where, Slice and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import EXACT, Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import constant_tensor, dims_of
from porting_passes.node_facts import attribute, is_constant, operand, rank, required, small_constant, static_dims

_FLOAT = (ir.DataType.FLOAT,)
_COPIES = 64
"""Copies along one axis up to which Concat stands in for Tile."""


def _expanded(node: ir.Node) -> tuple[int, ...] | str:
    """How often each axis of the result repeats the input, aligned to the right, or why that is unknown."""
    shape, dims = small_constant(node.inputs[1]), static_dims(node.inputs[0])
    if shape is None:
        return "the shape is not a constant"
    if dims is None:
        return "an extent of the input is unknown"
    wanted = [int(d) for d in shape]
    total = max(len(wanted), len(dims))
    wide, narrow = [1] * (total - len(wanted)) + wanted, [1] * (total - len(dims)) + list(dims)
    return tuple(w if n == 1 else 1 for w, n in zip(wide, narrow, strict=True))


def _expand_known(node: ir.Node, opset: int) -> str | None:
    repeats = _expanded(node)
    return repeats if isinstance(repeats, str) else None


def _expand_by_tile(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    repeats, x = _expanded(node), required(node, 0)
    dims = static_dims(x)
    assert not isinstance(repeats, str)
    assert dims is not None
    if len(repeats) > len(dims):
        x = b.reshape(x, [1] * (len(repeats) - len(dims)) + list(dims))
    return [x if all(r == 1 for r in repeats) else b.Tile(x, b.ints(repeats))]


def _multipliable(node: ir.Node, opset: int) -> str | None:
    shape = small_constant(node.inputs[1])
    if shape is None:
        return "the shape is not a constant"
    if np.prod(shape, dtype=np.int64) > 1 << 16:
        return "the factor would have more than 65536 elements"
    return "bool cannot be multiplied" if required(node, 0).dtype in (ir.DataType.BOOL, None) else None


def _expand_by_mul(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, shape = required(node, 0), small_constant(node.inputs[1])
    assert shape is not None
    return [b.Mul(x, b.constant(np.ones(shape.tolist()), b.dtype_of(x)))]


def _tile_known(node: ir.Node, opset: int) -> str | None:
    repeats = small_constant(node.inputs[1])
    if repeats is None:
        return "the repeats are not a constant"
    if (repeats < 1).any():
        return "a repeat is 0"
    return None if repeats.max(initial=1) <= _COPIES else f"an axis repeats more than {_COPIES} times"


def _tile_by_concat(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, repeats = required(node, 0), small_constant(node.inputs[1])
    assert repeats is not None
    for axis, count in enumerate(repeats.tolist()):
        if count > 1:
            x = b.Concat(*([x] * count), axis=axis)
    return [x]


def _triangle(node: ir.Node, opset: int) -> str | None:
    k = operand(node, 1)
    if k is not None and small_constant(k) is None:
        return "k is not a constant"
    dims = dims_of(required(node, 0))
    known = dims is not None and all(isinstance(d, int) for d in dims[-2:])
    return None if known else "the extents of the matrices are unknown"


def _trilu_by_where(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Where, not a product with the mask: matrices of -inf are what Trilu is mostly used on."""
    x, k = required(node, 0), small_constant(operand(node, 1))
    rows, columns = (d for d in (dims_of(x) or ())[-2:] if isinstance(d, int))
    offset = 0 if k is None else int(k.reshape(()))
    keep = np.triu if attribute(node, "upper", 1) else np.tril
    mask = b.constant(keep(np.ones((rows, columns), bool), offset), ir.DataType.BOOL)
    return [b.Where(mask, x, b.scalar(0, x))]


def _blendable(node: ir.Node, opset: int) -> str | None:
    if constant_tensor(required(node, 0)) is None:
        return "the condition is not a constant"
    dtype = required(node, 1).dtype
    if dtype is None or not dtype.is_floating_point():
        return "the operands are not known to be floating point"
    for value in node.inputs[1:]:
        if not is_constant(value):
            continue
        constant = small_constant(value)
        if constant is None:
            return "a constant of more than 64 elements may hold infinities, which a product with 0 does not remove"
        if not np.isfinite(constant.astype(np.float64)).all():
            return "an operand holds infinities or NaN, which a product with 0 does not remove"
    return None


def _where_by_blend(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """x * c + y * (1 - c) with c the condition as 0 and 1."""
    tensor = constant_tensor(required(node, 0))
    assert tensor is not None
    x, y, choose = required(node, 1), required(node, 2), tensor.numpy()
    dtype = b.dtype_of(x)
    return [b.Add(b.Mul(x, b.constant(choose, dtype)), b.Mul(y, b.constant(~choose, dtype)))]


def _run_of_indices(node: ir.Node) -> tuple[int, int, bool] | str:
    """First index, count, and whether the indices are a scalar, when they are consecutive constants."""
    dims, indices = dims_of(required(node, 0)), small_constant(node.inputs[1])
    if indices is None or indices.ndim > 1 or indices.size == 0:
        return "the indices are not a constant scalar or list"
    extent = None if dims is None else dims[attribute(node, "axis", 0)]
    flat = [int(i) for i in indices.reshape(-1)]
    if min(flat) < 0:
        if not isinstance(extent, int):
            return "an index is negative and the extent is unknown"
        flat = [i % extent for i in flat]
    consecutive = flat == list(range(flat[0], flat[0] + len(flat)))
    return (flat[0], len(flat), indices.ndim == 0) if consecutive else "the indices are not consecutive"


def _gather_applies(node: ir.Node, opset: int) -> str | None:
    found = _run_of_indices(node)
    return found if isinstance(found, str) else (None if rank(node.inputs[0]) else "the rank is unknown")


def _gather_by_slice(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    found, x = _run_of_indices(node), required(node, 0)
    assert not isinstance(found, str), found
    first, count, scalar = found
    axis = attribute(node, "axis", 0) % b.rank_of(x)
    part = b.slice(x, axis, first, first + count)
    return [b.squeeze(part, [axis]) if scalar else part]


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_ZERO_SIGN = Contract("ulp", 1, "equal for finite operands, but for the sign of a zero", nonfinite=False)

DECOMPOSITIONS = (
    Decomposition(
        "expand_by_tile",
        "Expand",
        _expand_by_tile,
        EXACT,
        examples(
            "Expand", case("both", Run((3, 1)), _ints(2, 1, 4)), case("same", Run((3, 4)), _ints(4)), dtypes=_FLOAT
        ),
        _expand_known,
    ),
    Decomposition(
        "expand_by_mul",
        "Expand",
        _expand_by_mul,
        EXACT,
        examples("Expand", case("both", Run((3, 1)), _ints(2, 1, 4)), dtypes=_FLOAT),
        _multipliable,
    ),
    Decomposition(
        "tile_by_concat",
        "Tile",
        _tile_by_concat,
        EXACT,
        examples("Tile", case("two axes", Run((2, 3, 1)), _ints(2, 1, 3)), dtypes=_FLOAT),
        _tile_known,
    ),
    Decomposition(
        "trilu_by_where",
        "Trilu",
        _trilu_by_where,
        Contract("ulp", 1, "equal, but the stock runtime's Where turns -0 into +0"),
        examples(
            "Trilu",
            case("upper", Run((2, 4, 5))),
            case("lower", Run((4, 5)), np.array(-1, np.int64), upper=0),
            dtypes=_FLOAT,
        ),
        _triangle,
    ),
    Decomposition(
        "where_by_blend",
        "Where",
        _where_by_blend,
        _ZERO_SIGN,
        examples(
            "Where",
            case("mask", np.eye(3, 5, dtype=bool), Run((3, 5)), Run((5,))),
            Case(
                "large mask of infinities",
                (np.tri(9, dtype=bool), Run((9, 9)), np.full((9, 9), -np.inf, np.float32)),
                applies=False,
                opsets=(13,),
            ),
        ),
        _blendable,
        last_resort=True,
    ),
    Decomposition(
        "gather_by_slice",
        "Gather",
        _gather_by_slice,
        EXACT,
        examples(
            "Gather",
            case("one", Run((2, 3, 4)), np.array(-1, np.int64), axis=1),
            case("run", Run((2, 5)), _ints(1, 2, 3), axis=-1),
            Case("scattered", (Run((2, 5)), _ints(3, 0)), {"axis": 1}, applies=False, opsets=(13,)),
            dtypes=_FLOAT,
        ),
        _gather_applies,
    ),
)
