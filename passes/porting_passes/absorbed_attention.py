"""Latent attention in its absorbed order: kv_b multiplied into query and result, attention over the latent itself.

So DeepSeek's inference/model.py computes it (attn_impl "absorb"), by einsum or by batched products.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from porting_passes.axis_labels import Axis, AxisLabels, Labelled
from porting_passes.causal_mask import is_causal
from porting_passes.contract import Contract, Example
from porting_passes.head_weights import HeadWeights
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, rank
from porting_passes.pattern_facts import has_dtype, number_of
from porting_passes.search import Search, Trail

_CONTRACT = Contract("tolerance", 4e-6, "sums in another order", nonfinite=False)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_QUERY, _LATENT, _SCORES = (tuple((label,) for label in word) for word in ("bhsn", "btc", "bhst"))


class _Term(NamedTuple):
    """Query [b, s, h, inner] times key [b, t, inner]."""

    query: Labelled
    key: Labelled
    inner: str


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the reshape that joins the heads up to query, latent, weights and mask.

    Labels: b batch, s query, t key, h head, c latent, n key without its rotary part, v value; i and j what each of the
    two terms of the scores is summed over.
    """
    labels = AxisLabels(trail)
    joined, heads = node.outputs[0], node.inputs[0]
    trail.require(rank(joined) == 3 and rank(heads) == 4 and labels.is_product(heads))
    y = labels.name(heads, "bshv")
    trail.require(labels.regrouped(y.labels, dims_of(joined) or ()) == (("b",), ("s",), ("h", "v")))
    result, value_weight = _apart(labels, y, "c", "bshc", "hcv")
    probabilities, latent = _apart(labels, result, "t", "bsht", "btc")
    latent = labels.laid_out(latent, _LATENT)
    softmax, p = labels.maker(probabilities, "Softmax")
    trail.require(p.axes[attribute(softmax, "axis", -1)] == ("t",))
    terms, scale, mask = _scores(labels, labels.like(softmax.inputs[0], p))
    over_latent = [labels.laid_out(k, (*_LATENT[:2], (i,))).value is latent.value for _, k, i in terms]
    trail.require(over_latent.count(True) == 1)
    absorbed, rotary = terms if over_latent[0] else terms[::-1]
    q_nope, key_weight = _apart(labels, absorbed.query, "n", "bshn", f"hn{absorbed.inner}")
    weights = HeadWeights.of(labels, key_weight.renamed(absorbed.inner, "c"), value_weight)

    operands = [
        (labels.laid_out(x, axes), axes)
        for x, axes in (
            (q_nope, _QUERY),
            (rotary.query, (*_QUERY[:3], (rotary.inner,))),
            (latent, _LATENT),
            (rotary.key, (("b",), (), ("t",), (rotary.inner,))),
        )
    ]
    values = [*(x.value for x, _ in operands), weights.parts[0].value]
    trail.require(has_dtype(values[0], *_DTYPES) and len({value.dtype for value in values}) == 1)
    causal = mask is not None and labels.extents["s"] == labels.extents["t"] and is_causal(mask[0])
    return {
        "operands": operands,
        "weights": weights,
        "mask": None if causal else mask,
        "scale": scale,
        "is_causal": int(causal),
    }


def _apart(labels: AxisLabels, x: Labelled, inner: str, *wanted: str) -> tuple[Labelled, Labelled]:
    """The operands of the product that makes ``x``, summed over ``inner``: those of these labels, in this order."""
    made = labels.product(x, inner)
    if not made[0].holds(wanted[0]):
        made = made[::-1]
    labels.trail.require(all(operand.holds(labels_) for operand, labels_ in zip(made, wanted, strict=True)))
    return made


def _scores(
    labels: AxisLabels, x: Labelled
) -> tuple[list[_Term], float, tuple[ir.Value, tuple[int, ...] | None] | None]:
    """The two terms of the scores, the number that scales them, and what is added to them."""
    trail, mask, scale = labels.trail, None, 1.0
    node, x = labels.maker(x, "Add", "Mul", "Div", "Einsum", "MatMul")
    if node.op_type == "Add" and not all(labels.is_product(value) for value in node.inputs):
        scored = 0 if labels.makes(node.inputs[0], "Add", "Mul", "Div", "Einsum", "MatMul") else 1
        mask = _mask(labels, node.inputs[1 - scored], x)
        node, x = labels.maker(labels.like(node.inputs[scored], x), "Add", "Mul", "Div", "Einsum", "MatMul")
    if node.op_type in ("Mul", "Div"):
        scored = 0 if labels.makes(node.inputs[0], "Add", "Einsum", "MatMul") else 1
        number = number_of(node.inputs[1 - scored], node.inputs[scored])
        trail.require(number and (node.op_type == "Mul" or scored == 0))
        assert number is not None
        scale = number if node.op_type == "Mul" else 1 / number
        node, x = labels.maker(labels.like(node.inputs[scored], x), "Add", "Einsum", "MatMul")
    if node.op_type != "Add":
        return _joined_terms(labels, x), scale, mask
    terms = (
        _Term(*_apart(labels, labels.like(value, x), inner, f"bsh{inner}", f"bt{inner}"), inner)
        for value, inner in zip(node.inputs, "ij", strict=True)
    )
    return list(terms), scale, mask


def _joined_terms(labels: AxisLabels, x: Labelled) -> list[_Term]:
    """Both terms of one product, of a query and a key whose parts stand side by side."""
    parts = []
    for operand in _apart(labels, x, "k", "bshk", "btk"):
        node, joined = labels.maker(operand, "Concat")
        axis = attribute(node, "axis") % len(joined.axes)
        labels.trail.require(len(node.inputs) == 2 and joined.axes[axis] == ("k",))
        parts.append([labels.part(value, joined, axis, inner) for value, inner in zip(node.inputs, "ij", strict=True)])
    return [_Term(query, key, inner) for query, key, inner in zip(*parts, "ij", strict=True)]


def _mask(labels: AxisLabels, value: ir.Value | None, scores: Labelled) -> tuple[ir.Value, tuple[int, ...] | None]:
    """What is added to the scores, as a value that fits [b, h, s, t] once its axes have the order that is returned."""
    dims = None if value is None else dims_of(value)
    labels.trail.require(dims is not None and len(dims) <= 4 == len(scores.axes))
    assert value is not None
    assert dims is not None
    axes = scores.axes[4 - len(dims) :]
    sizes = [labels.extents.get(axis[0]) if len(axis) == 1 else None for axis in axes]
    labels.trail.require(all(dim in (1, size) for dim, size in zip(dims, sizes, strict=True)))
    here: Labelled | None = Labelled(value, tuple(() if dim == 1 else a for dim, a in zip(dims, axes, strict=True)))
    while here is not None:
        if _fits(here.axes):
            return here.value, None
        here = labels.above(here)
    order = (*range(len(axes) - 3), len(axes) - 2, len(axes) - 3, len(axes) - 1)
    swapped = len(axes) > 2 and _fits([() if dims[i] == 1 else axes[i] for i in order])
    labels.trail.require(swapped)
    return value, order


def _fits(axes: Any) -> bool:
    return all(axis in ((), wanted) for axis, wanted in zip(reversed(axes), reversed(_SCORES), strict=False))


def _replacement(
    op: Any,
    operands: list[tuple[Labelled, tuple[Axis, ...]]],
    weights: HeadWeights,
    mask: tuple[ir.Value, tuple[int, ...] | None] | None,
    scale: float,
    is_causal: int,
) -> ir.Value:
    values = [_arranged(op, *operand) for operand in operands]
    part = weights.parts[0].value
    kv_b = part if weights.stands else op.constant(weights.tensor(), f"{part.name}/kv_b")
    if mask is None:
        dtype = part.dtype
        assert dtype is not None
        added = op.constant(np.zeros((1, 1, 1, 1), dtype.numpy()), "no_mask")
    else:
        added = mask[0] if mask[1] is None else op.Transpose(mask[0], perm=mask[1])
    result: ir.Value = op.MLAAttention(
        *values, kv_b, added, scale=scale, is_causal=is_causal, absorbed=1, _domain="porting"
    )
    return result


def _arranged(op: Any, x: Labelled, wanted: tuple[Axis, ...]) -> ir.Value:
    """The value with these axes."""
    if x.axes == wanted:
        return x.value
    value, padding = x.value, [i for i, axis in enumerate(x.axes) if not axis]
    if padding:
        value = op.Squeeze(value, op.constant(np.array(padding, np.int64), "axes"))
    axes, order = [axis for axis in x.axes if axis], [axis for axis in wanted if axis]
    if axes != order:
        value = op.Transpose(value, perm=[axes.index(axis) for axis in order])
    missing = [i for i, axis in enumerate(wanted) if not axis]
    result: ir.Value = op.Unsqueeze(value, op.constant(np.array(missing, np.int64), "axes")) if missing else value
    return result


_HEAD = """<ir_version: 10, opset_import: ["": 20]>
    g (float[2, 5, 3, 4] qn, float[2, 5, 3, 2] qr, float[2, 5, 6] l, float[2, 5, 2] kr, float[2, 1, 5, 5] m)
    => (float[2, 5, 24] y) <float[2, 5, 3, 8] o, float[3, 12, 6] w, float[3, 4, 6] k1, float[3, 8, 6] v1, TYPES> {"""
_EINSUM = (
    """float[2, 5, 3, 5] p, float[2, 5, 3, 5] a, float[2, 5, 3, 5] c, float[2, 5, 3, 5] s, float[2, 5, 3, 5] s1,
    float[2, 5, 3, 5] s2, float[2, 5, 3, 6] qa, float[2, 5, 3, 6] r, float[2, 5, 6] n, float[2, 5, 1, 5] mt""",
    """qa = Einsum<equation = "bshd,hdc->bshc">(qn, uk) s1 = Einsum<equation = "bshc,btc->bsht">(qa, l)
    s2 = Einsum<equation = "bshr,btr->bsht">(qr, kr) s = Add(s1, s2) c = Mul(s, scale)
    MASK p = Softmax<axis = -1>(a) r = Einsum<equation = "bsht,btc->bshc">(p, l)
    o = Einsum<equation = "bshc,hvc->bshv">(r, uv) y = Reshape(o, flat) }""",
)
_TYPES = """float[2, 3, 5, 5] p, float[2, 3, 5, 5] a, float[2, 3, 5, 5] c, float[2, 3, 5, 5] s, float[2, 3, 5, 5] s1,
    float[2, 3, 5, 5] s2, float[2, 3, 5, 6] qa, float[2, 1, 5, 6] l4, float[2, 1, 6, 5] lt, float[2, 3, 5, 6] r,
    float[2, 3, 5, 8] z, float[2, 3, 5, 4] qt, float[2, 3, 5, 2] rt"""
_PRODUCTS = (
    _TYPES + ", float[2, 1, 5, 2] k4, float[2, 1, 2, 5] kt",
    """qt = Transpose<perm = [0, 2, 1, 3]>(qn) rt = Transpose<perm = [0, 2, 1, 3]>(qr) qa = MatMul(qt, uk)
    l4 = Unsqueeze(l, first) lt = Transpose<perm = [0, 1, 3, 2]>(l4) s1 = MatMul(qa, lt)
    k4 = Unsqueeze(kr, first) kt = Transpose<perm = [0, 1, 3, 2]>(k4) s2 = MatMul(rt, kt) s = Add(s2, s1)
    c = Div(s, scale) MASK p = Softmax(a) r = MatMul(p, l4) z = MatMul(r, uvt) o = Transpose<perm = [0, 2, 1, 3]>(z)
    y = Reshape(o, flat) }""",
)
_JOINED = (
    _TYPES + ", float[2, 3, 5, 8] q, float[2, 5, 8] k, float[2, 1, 5, 8] k4, float[2, 1, 8, 5] kt",
    """qt = Transpose<perm = [0, 2, 1, 3]>(qn) rt = Transpose<perm = [0, 2, 1, 3]>(qr) qa = MatMul(qt, uk)
    q = Concat<axis = -1>(qa, rt) k = Concat<axis = 2>(l, kr) k4 = Unsqueeze(k, first)
    kt = Transpose<perm = [0, 1, 3, 2]>(k4) s = MatMul(q, kt) c = Mul(s, scale) MASK p = Softmax(a)
    l4 = Unsqueeze(l, first) r = MatMul(p, l4) z = MatMul(r, uvt) o = Transpose<perm = [0, 2, 1, 3]>(z)
    y = Reshape(o, flat) }""",
)


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    constants: dict[str, np.ndarray] = {
        "uk": rng.standard_normal((3, 4, 6)).astype(np.float32),
        "uv": rng.standard_normal((3, 8, 6)).astype(np.float32),
        "uvt": rng.standard_normal((3, 6, 8)).astype(np.float32),
        "kv": rng.standard_normal((36, 6)).astype(np.float32),
        "apart": np.array([3, 12, 6], np.int64),
        "parts": np.array([4, 8], np.int64),
        "flat": np.array([0, 0, -1], np.int64),
        "first": np.array([1], np.int64),
        "scale": np.array(0.4, np.float32),
    }

    def one(name: str, form: tuple[str, str], mask: str, *changes: tuple[str, str], applies: bool = True) -> Example:
        text = _HEAD.replace("TYPES", form[0]) + form[1].replace("MASK", mask)
        for change in changes:
            text = text.replace(*change)
        used: dict[str, Any] = {k: v for k, v in constants.items() if f"({k}, " in text or f", {k})" in text}
        return Example.from_text(name, text, applies=applies, dtypes=_DTYPES[:1], **used)

    turned = "mt = Transpose<perm = [0, 2, 1, 3]>(m) a = Add(c, mt)"
    parts = (
        ("qa = ", "w = Reshape(kv, apart) k1, v1 = Split<axis = 1>(w, parts) qa = "),
        ("(qn, uk)", "(qn, k1)"),
        ("(r, uv)", "(r, v1)"),
    )
    yield one("einsum", _EINSUM, turned)
    yield one("no mask", _EINSUM, "", ("Softmax<axis = -1>(a)", "Softmax<axis = -1>(c)"))
    yield one("products", _PRODUCTS, "a = Add(m, c)")
    yield one("joined keys", _JOINED, "a = Add(c, m)")
    yield one("one weight in two parts", _EINSUM, turned, *parts)
    yield one("divided by the scores", _PRODUCTS, "a = Add(m, c)", ("Div(s, scale)", "Div(scale, s)"), applies=False)
    yield one("other values", _EINSUM, turned, ("r = ", "n = Neg(l) r = "), ("(p, l)", "(p, n)"), applies=False)


SEARCH = Search("fuse_absorbed_mla_attention", ("", "Reshape"), _match, _replacement, _CONTRACT, _examples)
