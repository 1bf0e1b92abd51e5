"""Operators whose result is known before the model runs: Shape and Size of known extents, ConstantOfShape, Range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_kernels import dtypes
from porting_kernels.constants import range_
from porting_passes.builder import Builder
from porting_passes.contract import EXACT
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, operand, required, small_constant, static_dims

_LIMIT = 1 << 18
"""Elements up to which a filled or counted constant is written out."""


def _shape_window(node: ir.Node) -> list[int] | None:
    dims = dims_of(required(node, 0))
    if dims is None:
        return None
    window = list(dims)[attribute(node, "start", 0) : attribute(node, "end", len(dims))]
    known = [d for d in window if isinstance(d, int)]
    return known if len(known) == len(window) else None


def _shape_known(node: ir.Node, opset: int) -> str | None:
    return None if _shape_window(node) is not None else "an extent is unknown"


def _shape(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.ints(_shape_window(node) or [])]


def _size_known(node: ir.Node, opset: int) -> str | None:
    return None if static_dims(node.inputs[0]) is not None else "an extent is unknown"


def _size(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.constant(np.prod(static_dims(node.inputs[0]) or (), dtype=np.int64), ir.DataType.INT64)]


def _filled(node: ir.Node, opset: int) -> str | None:
    shape = small_constant(operand(node, 0))
    if shape is None:
        return "the shape is not a constant"
    return None if np.prod(shape, dtype=np.int64) <= _LIMIT else f"it has more than {_LIMIT} elements"


def _constant_of_shape(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    shape, value = small_constant(operand(node, 0)), attribute(node, "value")
    assert shape is not None
    fill = np.zeros(1, np.float32) if value is None else value.numpy()
    dtype = ir.DataType.FLOAT if value is None else value.dtype
    return [b.constant(np.full(shape.tolist(), fill.reshape(())), dtype)]


def _counted(node: ir.Node, opset: int) -> str | None:
    parts = [small_constant(value) for value in node.inputs]
    if any(part is None for part in parts):
        return "start, limit and delta are not constants"
    start, limit, delta = (float(part.reshape(())) for part in parts if part is not None)
    if delta == 0:
        return "delta is 0"
    return None if (limit - start) / delta <= _LIMIT else f"it has more than {_LIMIT} elements"


def _range(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """What the kernel counts: how many elements there are turns on the last bit of a quotient."""
    parts = [small_constant(value) for value in node.inputs]
    counted = range_(*(dtypes.to_torch(part.reshape(())) for part in parts if part is not None))
    return [b.constant(dtypes.to_numpy(counted), b.dtype_of(required(node, 0)))]


def _int(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array(v, np.int64) for v in values)


_FLOAT = (ir.DataType.FLOAT,)

DECOMPOSITIONS = (
    Decomposition(
        "shape_constant",
        "Shape",
        _shape,
        EXACT,
        examples(
            "Shape",
            case("known", Run((3, 5))),
            Case("part", (Run((2, 3, 5)),), {"start": -2, "end": 2}, opsets=(18,)),
            dtypes=_FLOAT,
        ),
        _shape_known,
    ),
    Decomposition(
        "size_constant", "Size", _size, EXACT, examples("Size", case("known", Run((3, 5))), dtypes=_FLOAT), _size_known
    ),
    Decomposition(
        "constant_of_shape_constant",
        "ConstantOfShape",
        _constant_of_shape,
        EXACT,
        examples(
            "ConstantOfShape",
            case("zeros", np.array([2, 3], np.int64)),
            case("ones", np.array([4], np.int64), value=ir.tensor(np.ones(1, np.int64))),
            dtypes=_FLOAT,
        ),
        _filled,
    ),
    Decomposition(
        "range_constant",
        "Range",
        _range,
        EXACT,
        examples(
            "Range",
            case("down", *_int(7, 0, -2)),
            case("up", *_int(0, 5, 1)),
            case("the limit is almost met", *(np.array(v, np.float32) for v in (0, 0.3, 0.1))),
            case("none", *_int(5, 0, 1)),
            dtypes=_FLOAT,
        ),
        _counted,
    ),
)
