"""Attention (opset 23) by MatMul and Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder, BuildError
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, number, operand, rank, required, used


def _heads(node: ir.Node) -> tuple[int, int] | str:
    """Query heads and key/value heads, or why they are unknown."""
    q, k = dims_of(required(node, 0)), dims_of(required(node, 1))
    if q is None or k is None:
        return "the rank of the query or the key is unknown"
    if len(q) == 3:
        return attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    if not isinstance(q[1], int) or not isinstance(k[1], int):
        return "the number of heads is unknown"
    return q[1], k[1]


def _applies(node: ir.Node, opset: int) -> str | None:
    heads = _heads(node)
    if isinstance(heads, str):
        return heads
    if operand(node, 6) is not None:
        return "key and value have padding (nonpad_kv_seqlen)"
    if len(node.outputs) > 3 and used(node.outputs[3]):
        return "the product of query and key is an output"
    if (dims_of(required(node, 0)) or (None,))[-1] is None:
        return "the head size is unknown"
    if not isinstance((dims_of(required(node, 0)) or (None,))[-1], int):
        return "the head size is unknown"
    if attribute(node, "is_causal", 0) and _lengths(node) is None:
        return "it is causal and a sequence length is unknown"
    return None


def _lengths(node: ir.Node) -> tuple[int, int, int] | None:
    """Lengths of the query, of the past and of past and key together."""
    q, k, past = dims_of(required(node, 0)), dims_of(required(node, 1)), operand(node, 4)
    before = 0 if past is None else (dims_of(past) or (None,) * 4)[2]
    if q is None or k is None or not isinstance(q[-2], int) or not isinstance(k[-2], int) or not isinstance(before, int):
        return None
    return q[-2], before, before + k[-2]


def _by_heads(b: Builder, x: ir.Value, heads: int) -> ir.Value:
    """[batch, sequence, heads * size] as [batch, heads, sequence, size]; a 4-D value is that already."""
    return x if rank(x) == 4 else b.Transpose(b.reshape(x, [0, 0, heads, -1]), perm=[0, 2, 1, 3])


def _repeated(b: Builder, x: ir.Value, heads: int, times: int) -> ir.Value:
    """Each key or value head ``times`` in a row, for the query heads that share it."""
    dims = dims_of(x) or ()
    if times == 1:
        return x
    if len(dims) != 4 or not isinstance(dims[3], int):
        raise BuildError("the head size of key or value is unknown")
    copies = b.Concat(*([b.unsqueeze(x, [2])] * times), axis=2)
    length = dims[2] if isinstance(dims[2], int) else -1
    return b.reshape(copies, [0, heads * times, length, dims[3]])


def _additive(b: Builder, mask: ir.Value, like: ir.Value) -> ir.Value:
    """A boolean mask (true: attend) as 0 and -inf; a float mask is added as it is."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    return b.Where(mask, b.scalar(0, like), b.scalar(-math.inf, like))


def _build(b: Builder, node: ir.Node) -> Sequence[ir.Value | None]:
    """softmax(softcap(q sqrt(s) (k sqrt(s))^T) + mask) v; the scale is split over both factors as the standard says."""
    heads = _heads(node)
    assert not isinstance(heads, str), heads
    query_heads, kv_heads = heads
    x = required(node, 0)
    q = _by_heads(b, x, query_heads)
    k, v = (_by_heads(b, required(node, index), kv_heads) for index in (1, 2))
    for index, present in ((4, k), (5, v)):
        past = operand(node, index)
        if past is not None:
            joined = b.Concat(past, present, axis=2)
            k, v = (joined, v) if index == 4 else (k, joined)
    presents = (k, v)
    size = (dims_of(x) or ())[-1]
    assert isinstance(size, int)
    per_head = size if rank(x) == 4 else size // query_heads
    root = math.sqrt(number(node, "scale", 1 / math.sqrt(per_head)))
    times = query_heads // kv_heads
    k, v = _repeated(b, k, kv_heads, times), _repeated(b, v, kv_heads, times)
    score = b.MatMul(b.Mul(q, b.scalar(root, q)), b.swap_last(b.Mul(k, b.scalar(root, k))))
    score = _masked(b, node, score)
    wide = attribute(node, "softmax_precision")
    weights = b.softmax(b.cast(score, ir.DataType(wide)) if wide else score, -1)
    y = b.MatMul(b.cast(weights, b.dtype_of(v)), v)
    if rank(x) == 3:
        y = b.reshape(b.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1])
    return [y, *presents, None][: len(node.outputs)]


def _masked(b: Builder, node: ir.Node, score: ir.Value) -> ir.Value:
    """Softcap, then the mask and the causal mask (opset 23 caps after masking, which gives softcap for -inf)."""
    softcap, mask = number(node, "softcap", 0.0), operand(node, 3)
    if mask is not None:
        score = b.Add(score, _additive(b, mask, score))
    if attribute(node, "is_causal", 0):
        lengths = _lengths(node)
        assert lengths is not None
        rows, before, columns = lengths
        hidden = np.where(np.tri(rows, columns, before, dtype=bool), 0.0, -np.inf)
        score = b.Add(score, b.constant(hidden, b.dtype_of(score)))
    if softcap:
        cap = b.scalar(softcap, score)
        score = b.Mul(b.Tanh(b.Div(score, cap)), cap)
    return score


_Q, _K = Run((2, 2, 3, 4)), Run((2, 2, 5, 4))
_FLOAT = (ir.DataType.FLOAT,)

DECOMPOSITIONS = (
    Decomposition(
        "attention_by_matmul",
        "Attention",
        _build,
        Contract("tolerance", 4e-6, "sums in another order; Softmax of a large score is sensitive", nonfinite=False),
        examples(
            "Attention",
            case("plain", _Q, _K, _K),
            case("mask", _Q, _K, _K, Run((3, 5))),
            case("causal", _Q, _K, _K, is_causal=1, scale=0.3),
            case("grouped", Run((2, 4, 3, 4)), _K, _K),
            case("flat", Run((2, 3, 8)), Run((2, 5, 8)), Run((2, 5, 8)), q_num_heads=2, kv_num_heads=2),
            Case("past", (_Q, _K, _K, None, Run((2, 2, 1, 4)), Run((2, 2, 1, 4))), {"is_causal": 1}, outputs=3),
            Case("scores", (_Q, _K, _K), outputs=4, applies=False),
            dtypes=_FLOAT,
        ),
        _applies,
    ),
)
