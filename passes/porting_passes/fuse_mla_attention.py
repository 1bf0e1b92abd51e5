"""Keys and values from one latent vector, attention over them  ->  porting.MLAAttention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes import absorbed_attention
from porting_passes.causal_mask import is_causal
from porting_passes.contract import Contract, Example
from porting_passes.halves import last_extent
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, rank
from porting_passes.pattern_facts import has_dtype, number_of
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract(
    "tolerance", 4e-6, "scores of the two parts of a head add up after their products, not within one", nonfinite=False
)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the reshape that joins the heads up to query, latent, weights and mask."""
    turned = trail.up(node.inputs[0], "Transpose")
    product = trail.up(turned.inputs[0], "MatMul")
    trail.require(list(attribute(turned, "perm", ())) == [0, 2, 1, 3] and rank(node.outputs[0]) == 3)
    softmax = trail.up(product.inputs[0], "Softmax")
    trail.require(attribute(softmax, "axis", -1) in (-1, 3))
    scores, scale, mask = _scores(trail, softmax.inputs[0])
    query, key = trail.up(scores.inputs[0], "Concat"), trail.up(scores.inputs[1], "Transpose")
    trail.require(list(attribute(key, "perm", ())) == [0, 1, 3, 2])
    key = trail.up(key.inputs[0], "Concat")
    for concat in (query, key):
        trail.require(len(concat.inputs) == 2 and attribute(concat, "axis") in (-1, 3))
    q_nope, q_rope = query.inputs
    k_nope, k_rope = key.inputs
    if trail.peek(k_rope, "Expand") is not None:
        k_rope = trail.up(k_rope, "Expand").inputs[0]
    split = trail.up(k_nope, "Split")
    trail.require(len(split.outputs) == 2 and k_nope is split.outputs[0] and product.inputs[1] is split.outputs[1])
    trail.require(attribute(split, "axis", 0) in (-1, 3))
    latent, kv_b = _latent(trail, split.inputs[0])

    q_dims, k_dims, n_dims = (None if v is None else dims_of(v) for v in (q_nope, k_rope, k_nope))
    trail.require(q_dims is not None and len(q_dims) == 4 and isinstance(q_dims[1], int))
    trail.require(k_dims is not None and len(k_dims) == 4 and k_dims[1] == 1)
    trail.require(n_dims is not None and len(n_dims) == 4 and n_dims[1] == (q_dims or (0, 0))[1])
    trail.require(last_extent(q_nope) is not None and last_extent(q_nope) == last_extent(k_nope))
    trail.require(last_extent(q_rope) is not None and last_extent(q_rope) == last_extent(k_rope))
    trail.require(
        has_dtype(q_nope, *_DTYPES) and all(v is not None and v.dtype == latent.dtype for v in (q_nope, kv_b))
    )
    flat = node.outputs[0].shape
    heads, value = (q_dims or (0, 0))[1], last_extent(split.outputs[1])
    trail.require(isinstance(heads, int) and value is not None and flat is not None and flat[2] == heads * (value or 0))
    causal = mask is not None and is_causal(mask) and (q_dims or ())[2] == (n_dims or ())[2] is not None
    operands = (q_nope, q_rope, latent, k_rope, kv_b)
    return {"operands": operands, "mask": None if causal else mask, "scale": scale, "is_causal": int(causal)}


def _scores(trail: Trail, value: ir.Value | None) -> tuple[ir.Node, float, ir.Value | None]:
    """The product of query and key, the number that scales it, and what is added to it."""
    node, mask = trail.up(value, "Add", "Mul", "Div", "MatMul"), None
    if node.op_type == "Add":
        index = 0 if trail.peek(node.inputs[0], "Mul", "Div", "MatMul") is not None else 1
        mask = node.inputs[1 - index]
        node = trail.up(node.inputs[index], "Mul", "Div", "MatMul")
    if node.op_type == "MatMul":
        return node, 1.0, mask
    scores = next((v for v in node.inputs if trail.peek(v, "MatMul") is not None), None)
    other = node.inputs[1] if scores is node.inputs[0] else node.inputs[0]
    number = number_of(other, scores)
    trail.require(number and (node.op_type == "Mul" or other is node.inputs[1]))
    assert number is not None
    return trail.up(scores, "MatMul"), number if node.op_type == "Mul" else 1 / number, mask


def _latent(trail: Trail, value: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """The latent [batch, keys, C] and the weight that makes keys and values of all heads of it."""
    turned = trail.up(value, "Transpose")
    trail.require(list(attribute(turned, "perm", ())) == [0, 2, 1, 3])
    heads = trail.up(turned.inputs[0], "Reshape")
    product = trail.up(heads.inputs[0], "MatMul")
    latent, weight = product.inputs
    trail.require(weight is not None and weight.is_initializer() and rank(weight) == 2)
    before = trail.peek(latent, "Reshape", "Unsqueeze")
    if rank(latent) == 4 and before is not None and latent is not None:
        source = before.inputs[0]
        outer, inner = dims_of(latent), None if source is None else dims_of(source)
        trail.require(outer is not None and inner is not None and outer[:1] + outer[2:] == inner and outer[1] == 1)
        trail.require(outer is not None and None not in outer)
        latent = trail.up(latent, "Reshape", "Unsqueeze").inputs[0]
    dims, apart = None if latent is None else dims_of(latent), dims_of(heads.outputs[0])
    # Where batch and keys stand, no head is moved to: the reshape splits the last axis only.
    trail.require(dims is not None and len(dims) == 3 and apart is not None and len(apart) == 4)
    trail.require((apart or ())[:2] == (dims or ())[:2] and None not in (dims or ())[:2])
    assert latent is not None
    assert weight is not None
    return latent, weight


def _replacement(
    op: Any, operands: tuple[ir.Value, ...], mask: ir.Value | None, scale: float, is_causal: int
) -> ir.Value:
    if mask is None:
        dtype = operands[0].dtype
        assert dtype is not None
        mask = op.constant(np.zeros((1, 1, 1, 1), dtype.numpy()), "no_mask")
    result: ir.Value = op.MLAAttention(*operands, mask, scale=scale, is_causal=is_causal, absorbed=0, _domain="porting")
    return result


_EXAMPLE = """<ir_version: 10, opset_import: ["": 20]>
    g (float[2, 3, 5, 4] qn, float[2, 3, 5, 2] qr, float[2, 5, 6] l, float[2, 1, 5, 2] kr, float[2, 1, 5, 5] m)
    => (float[2, 5, WIDE] y) <float[2, 1, 5, 6] l4, float[2, 5, 3, 12] h, float[2, 3, 5, 4] kn, float[2, 3, 5, 8] v,
    float[2, 1, 5, 5] mask, int64[1, 5] keys, int64[5, 1] queries> {
    l4 = Reshape(l, to4) kv = MatMul(l4, w) h = Reshape(kv, heads) ht = Transpose<perm = [0, 2, 1, 3]>(h)
    kn, v = Split<axis = 3>(ht, parts) ke = Expand(kr, wide) k = Concat<axis = 3>(kn, ke)
    kt = Transpose<perm = [0, 1, 3, 2]>(k) q = Concat<axis = -1>(qn, qr) s = MatMul(q, kt) c = Mul(s, scale)
    MASK p = Softmax<axis = -1>(a) o = MatMul(p, v) ot = Transpose<perm = [0, 2, 1, 3]>(o) y = Reshape(ot, flat) }"""
_CAUSAL = """count = Constant<value = int64 {5}>() zero = Constant<value = int64 {0}>()
    one = Constant<value = int64 {1}>()
    r = Range(zero, count, one) t = Range(zero, count, one) keys = Unsqueeze(r, first) queries = Unsqueeze(t, second)
    le = LessOrEqual(keys, queries) b = Expand(le, square) mask = Where(b, nothing, low) a = Add(c, mask)"""


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    constants: dict[str, np.ndarray] = {
        "w": rng.standard_normal((6, 36)).astype(np.float32),
        "to4": np.array([0, 1, -1, 6], np.int64),
        "heads": np.array([0, -1, 3, 12], np.int64),
        "parts": np.array([4, 8], np.int64),
        "wide": np.array([1, 3, 1, 1], np.int64),
        "flat": np.array([0, 0, -1], np.int64),
        "scale": np.array(0.4, np.float32),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "square": np.array([2, 1, 1, 1], np.int64),
        "nothing": np.array(0, np.float32),
        "low": np.array(np.finfo(np.float32).min, np.float32),
    }

    def one(name: str, mask: str, *, applies: bool = True, change: tuple[str, str] = ("", "")) -> Example:
        text = (
            _EXAMPLE.replace("MASK", mask).replace("WIDE", "18" if "MatMul(p, k)" in change else "24").replace(*change)
        )
        used: dict[str, Any] = {
            k: v for k, v in constants.items() if f"{k})" in text or f"{k}," in text.split("{", 1)[1]
        }
        return Example.from_text(name, text, applies=applies, dtypes=_DTYPES[:1], **used)

    yield one("mask", "a = Add(c, m)")
    yield one("mask first", "a = Add(m, c)")
    yield one("no mask", "a = Identity(c)", change=("a = Identity(c) p = Softmax<axis = -1>(a)", "p = Softmax(c)"))
    yield one("causal", _CAUSAL)
    yield one("anticausal", _CAUSAL.replace("(keys, queries)", "(queries, keys)"))
    yield one("values of the keys", "a = Add(c, m)", applies=False, change=("MatMul(p, v)", "MatMul(p, k)"))


REWRITES = (
    Search("fuse_mla_attention", ("", "Reshape"), _match, _replacement, _CONTRACT, _examples),
    absorbed_attention.SEARCH,
)


class FuseMLAAttention(RewritePass):
    """Multi-head latent attention (DeepSeek-V2 and -V3) as one operator, which keeps the order of the products.

    1. Expanded. Keys [k_nope, k_rope] and values from one product of a latent with a weight, k_rope shared by the
       heads, scores scaled by a number, with or without a mask, softmax, values, heads joined: fuse, weight included.
    2. Absorbed. A part of a weight multiplied into the query, scores over latent and rotary keys (two products, or one
       of both side by side), the latent as values, the other part of the weight multiplied into the result, in Einsum
       or MatMul of any layout: fuse. The two parts of kv_b, or two weights, become one weight without being read;
       stored weights in an order that only reading could change (the heads between latent and key): leave.
    3. A mask that is provably the causal one becomes the attribute is_causal; another one stays an operand.
    4. A scale that is computed, parts of other widths, inner values that something else reads: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
