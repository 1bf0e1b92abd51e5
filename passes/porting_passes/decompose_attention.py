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
    if any(attribute(node, name, -1) != -1 for name in ("left_window_size", "right_window_size")):
        return "attention is limited to a window"
    if opset >= 24 and not _mask_is_full(node):
        return "the mask may be shorter than the keys"
    if not isinstance((dims_of(required(node, 0)) or (None,))[-1], int):
        return "the head size is unknown"
    if attribute(node, "is_causal", 0) and _lengths(node) is None:
        return "it is causal and a sequence length is unknown"
    return None


def _mask_is_full(node: ir.Node) -> bool:
    """Whether there is no mask, or its last extent is known to be the number of keys (from opset 24 it may be less)."""
    mask, k, past = operand(node, 3), dims_of(required(node, 1)), operand(node, 4)
    if mask is None:
        return True
    last, lengths = (dims_of(mask) or (None,))[-1], _lengths(node)
    return last is not None and (
        last == (k or (None, None))[-2] if past is None else lengths is not None and last == lengths[2]
    )


def _lengths(node: ir.Node) -> tuple[int, int, int] | None:
    """Lengths of the query, of the past and of past and key together."""
    q, k, past = dims_of(required(node, 0)), dims_of(required(node, 1)), operand(node, 4)
    before = 0 if past is None else (dims_of(past) or (None,) * 4)[2]
    if (
        q is None
        or k is None
        or not isinstance(q[-2], int)
        or not isinstance(k[-2], int)
        or not isinstance(before, int)
    ):
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


def _build(b: Builder, node: ir.Node) -> Sequence[ir.Value | None]:
    """softmax(softcap(q sqrt(s) (k sqrt(s))^T) + mask) v; the scale is split over both factors as the standard says.

    A query that may see no key at all gives 0: its weights, 0/0 in Softmax, are replaced.
    """
    heads = _heads(node)
    assert not isinstance(heads, str), heads
    query_heads, kv_heads = heads
    x = required(node, 0)
    q = _by_heads(b, x, query_heads)
    k, v = (_by_heads(b, required(node, index), kv_heads) for index in (1, 2))
    past_key, past_value = operand(node, 4), operand(node, 5)
    if past_key is not None and past_value is not None:
        k, v = b.Concat(past_key, k, axis=2), b.Concat(past_value, v, axis=2)
    presents = (k, v)
    size = (dims_of(x) or ())[-1]
    assert isinstance(size, int)
    root = math.sqrt(number(node, "scale", 1 / math.sqrt(size if rank(x) == 4 else size // query_heads)))
    k, v = (_repeated(b, value, kv_heads, query_heads // kv_heads) for value in (k, v))
    score = b.MatMul(b.Mul(q, b.scalar(root, q)), b.swap_last(b.Mul(k, b.scalar(root, k))))
    softcap = number(node, "softcap", 0.0)
    if softcap:
        cap = b.scalar(softcap, score)
        score = b.Mul(b.Tanh(b.Div(score, cap)), cap)
    mask = _mask(b, node, score)
    score = score if mask is None else b.Add(score, mask)
    wide = attribute(node, "softmax_precision")
    weights = b.cast(b.softmax(b.cast(score, ir.DataType(wide)) if wide else score, -1), b.dtype_of(v))
    if operand(node, 3) is not None and mask is not None:
        blind = b.Equal(b.reduce("ReduceMax", mask, [-1]), b.scalar(-math.inf, mask))
        weights = b.Where(blind, b.scalar(0, weights), weights)
    y = b.MatMul(weights, v)
    if rank(x) == 3:
        y = b.reshape(b.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, -1])
    return [y, *presents, None][: len(node.outputs)]


def _mask(b: Builder, node: ir.Node, score: ir.Value) -> ir.Value | None:
    """What is added to the scores: the mask (boolean: true may be seen) and the causal one, 0 or -inf."""
    given, total = operand(node, 3), None
    if given is not None:
        hidden = b.scalar(-math.inf, score)
        total = b.Where(given, b.scalar(0, score), hidden) if given.dtype == ir.DataType.BOOL else given
    if attribute(node, "is_causal", 0):
        lengths = _lengths(node)
        assert lengths is not None
        rows, before, columns = lengths
        causal = b.constant(np.where(np.tri(rows, columns, before, dtype=bool), 0.0, -np.inf), b.dtype_of(score))
        total = causal if total is None else b.Add(total, causal)
    return total


_SEEN = np.arange(30).reshape(2, 1, 3, 5) % 3 > 0
_SEEN[1, 0, 2] = False
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
            Case("boolean mask", (_Q, _K, _K, Run((2, 1, 3, 5), ir.DataType.BOOL)), values={3: _SEEN}),
            case("softcap", _Q, _K, _K, Run((3, 5)), softcap=1.5),
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
