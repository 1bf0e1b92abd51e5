"""RotaryEmbedding (opset 23) by Slice, Mul, Sub, Add and Concat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, examples
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, operand, rank, required


def _head_size(node: ir.Node) -> int | str:
    dims = dims_of(required(node, 0))
    if dims is None or not isinstance(dims[-1], int):
        return "the head size is unknown"
    return dims[-1] if len(dims) == 4 else dims[-1] // attribute(node, "num_heads", 1)


def _applies(node: ir.Node, opset: int) -> str | None:
    size = _head_size(node)
    if isinstance(size, str):
        return size
    if rank(node.inputs[0]) == 3 and not attribute(node, "num_heads", 0):
        return "the number of heads is unknown"
    if operand(node, 3) is None and rank(node.inputs[1]) != 3:
        return "the caches are not [batch, sequence, size]"
    return None


def _angles(b: Builder, node: ir.Node, index: int) -> ir.Value:
    """A cache as [batch, sequence, 1, size / 2], gathered by position where positions are given."""
    cache, positions = required(node, index), operand(node, 3)
    rows = cache if positions is None else b.Gather(cache, positions, axis=0)
    return b.unsqueeze(rows, [2])


def _build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """(x1 cos - x2 sin, x1 sin + x2 cos); the halves are interleaved pairs or the two halves of the rotated part."""
    x, size = required(node, 0), _head_size(node)
    assert isinstance(size, int)
    flat = rank(x) == 3
    rows = b.reshape(x, [0, 0, -1, size]) if flat else b.Transpose(x, perm=[0, 2, 1, 3])
    turned = attribute(node, "rotary_embedding_dim", 0) or size
    part = rows if turned == size else b.slice(rows, 3, 0, turned)
    half = turned // 2
    interleaved = attribute(node, "interleaved", 0)
    if interleaved:
        first, second = b.slice(part, 3, 0, turned, 2), b.slice(part, 3, 1, turned, 2)
    else:
        first, second = b.slice(part, 3, 0, half), b.slice(part, 3, half, turned)
    cos, sin = _angles(b, node, 1), _angles(b, node, 2)
    real = b.Sub(b.Mul(first, cos), b.Mul(second, sin))
    imaginary = b.Add(b.Mul(first, sin), b.Mul(second, cos))
    if interleaved:
        pairs = b.Concat(b.unsqueeze(real, [4]), b.unsqueeze(imaginary, [4]), axis=4)
        rotated = b.reshape(pairs, [0, 0, 0, turned])
    else:
        rotated = b.Concat(real, imaginary, axis=3)
    if turned != size:
        rotated = b.Concat(rotated, b.slice(rows, 3, turned, size), axis=3)
    return [b.reshape(rotated, [0, 0, -1]) if flat else b.Transpose(rotated, perm=[0, 2, 1, 3])]


_POSITIONS = Run((2, 3), ir.DataType.INT64)
_IDS = {3: np.array([[0, 1, 2], [3, 4, 5]], np.int64)}
_X, _CACHE = Run((2, 2, 3, 8)), Run((6, 4))

DECOMPOSITIONS = (
    Decomposition(
        "rotary_embedding_by_mul",
        "RotaryEmbedding",
        _build,
        Contract("tolerance", 1e-6, "a multiplication and addition may be contracted to one rounding", nonfinite=False),
        examples(
            "RotaryEmbedding",
            Case("halves", (_X, _CACHE, _CACHE, _POSITIONS), values=_IDS),
            Case("pairs", (_X, _CACHE, _CACHE, _POSITIONS), {"interleaved": 1}, values=_IDS),
            Case("flat", (Run((2, 3, 16)), _CACHE, _CACHE, _POSITIONS), {"num_heads": 2}, values=_IDS),
            Case("partial", (_X, Run((6, 2)), Run((6, 2)), _POSITIONS), {"rotary_embedding_dim": 4}, values=_IDS),
            Case("no positions", (_X, Run((2, 3, 4)), Run((2, 3, 4)))),
            dtypes=(ir.DataType.FLOAT,),
        ),
        _applies,
    ),
)
