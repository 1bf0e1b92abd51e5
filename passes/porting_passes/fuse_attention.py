"""MatMul, scale, mask, Softmax, MatMul  ->  Attention."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute
from porting_passes.pattern_facts import has_dtype, number_of, producer
from porting_passes.rewrite import Accepts, Rewrite, RewritePass

SCALES = ("none", "div", "mul", "query", "both")
"""Where the scale stands: nowhere, score / c, score * c, q * c, or q * c and k * d."""

_CONTRACT = Contract(
    "tolerance",
    4e-6,
    "the scale is applied as its square root to query and key; a query whose keys are all masked with -inf gives 0, "
    "not NaN",
    nonfinite=False,
)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _pattern(scale: str, mask: bool) -> Callable[..., Any]:
    def attention(op: Any, q: Any, k: Any, v: Any, factor: Any = None, other: Any = None, bias: Any = None) -> Any:
        if scale in ("query", "both"):
            q = op.Mul(q, factor)
        key = op.Transpose(k, _outputs=["turned"])
        if scale == "both":
            key = op.Mul(key, other)
        score = op.MatMul(q, key)
        if scale == "div":
            score = op.Div(score, factor)
        elif scale == "mul":
            score = op.Mul(score, factor)
        if mask:
            score = op.Add(score, bias)
        return op.MatMul(op.Softmax(score, _outputs=["weights"]), v)

    patterns: dict[tuple[int, bool], Callable[..., Any]] = {
        (0, False): lambda op, q, k, v: attention(op, q, k, v),
        (0, True): lambda op, q, k, v, bias: attention(op, q, k, v, bias=bias),
        (1, False): lambda op, q, k, v, factor: attention(op, q, k, v, factor),
        (1, True): lambda op, q, k, v, factor, bias: attention(op, q, k, v, factor, bias=bias),
        (2, False): lambda op, q, k, v, factor, other: attention(op, q, k, v, factor, other),
        (2, True): lambda op, q, k, v, factor, other, bias: attention(op, q, k, v, factor, other, bias),
    }
    return patterns[{"none": 0, "both": 2}.get(scale, 1), mask]


def _scale(scale: str, q: ir.Value, factor: ir.Value | None, other: ir.Value | None) -> float | None:
    """The number that the scores are multiplied with; None unless it is a positive constant."""
    numbers = [number_of(value, q) for value in (factor, other) if value is not None]
    if any(number is None for number in numbers):
        return None
    total = math.prod(number for number in numbers if number is not None)
    if total <= 0 or not math.isfinite(total):
        return None
    return 1 / total if scale == "div" else float(total)


def _key_perm(turned: ir.Value) -> list[int] | None:
    """How the key has to be transposed to stand as [batch, heads, sequence, size]."""
    perm = attribute(producer(turned), "perm")
    return None if perm is None or len(perm) != 4 else [perm[0], perm[1], perm[3], perm[2]]


def _condition(scale: str) -> Callable[..., bool]:
    def condition(
        context: Any,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        turned: ir.Value,
        weights: ir.Value,
        factor: ir.Value | None = None,
        other: ir.Value | None = None,
        bias: ir.Value | None = None,
    ) -> bool:
        perm, dims = _key_perm(turned), [dims_of(value) for value in (q, k, v)]
        if perm is None or any(d is None or len(d) != 4 for d in dims):
            return False
        query, key, value = (d for d in dims if d is not None)
        key = tuple(key[axis] for axis in perm)
        if attribute(producer(weights), "axis", -1) not in (-1, 3) or not has_dtype(q, *_DTYPES):
            return False
        batch_and_heads = {query[:2], key[:2], value[:2]}
        if len(batch_and_heads) != 1 or None in query[:2] or None in (key[2], query[3]) or key[2] != value[2]:
            return False
        if bias is not None and not _mask_fits(bias, q, (query[0], query[1], query[2], key[2])):
            return False
        return _scale(scale, q, factor, other) is not None

    return condition


def _mask_fits(bias: ir.Value, q: ir.Value, scores: tuple[int | str | None, ...]) -> bool:
    """Whether a mask is of the scores' dtype and broadcasts to them, its last extent being the number of keys."""
    dims = dims_of(bias)
    if dims is None or not 2 <= len(dims) <= 4 or bias.dtype != q.dtype or dims[-1] != scores[-1]:
        return False
    return all(d is not None and d in (1, full) for d, full in zip(dims, scores[-len(dims) :], strict=True))


def _replacement(scale: str) -> Callable[..., ir.Value]:
    def replacement(
        op: Any,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        turned: ir.Value,
        weights: ir.Value,
        factor: ir.Value | None = None,
        other: ir.Value | None = None,
        bias: ir.Value | None = None,
    ) -> ir.Value:
        perm = _key_perm(turned)
        key = k if perm == [0, 1, 2, 3] else op.Transpose(k, perm=perm)
        result: ir.Value = op.Attention(q, key, v, bias, scale=_scale(scale, q, factor, other))
        return result

    return replacement


def _text(opset: int, scale: str, mask: bool, perm: str, key: str, mask_shape: str, axis: int) -> str:
    score = {"div": "c = Div(m, f)", "mul": "c = Mul(m, f)"}.get(scale, "")
    left, right = ("s", "t") if scale == "both" else ("s", "u") if scale == "query" else ("q", "u")
    before = {"query": "s = Mul(q, f)", "both": "s = Mul(q, f) t = Mul(u, o)"}.get(scale, "")
    scored = "c" if score else "m"
    masked = f"a = Add({scored}, b)" if mask else ""
    bias = f", float{mask_shape} b" if mask else ""
    return f"""<ir_version: 10, opset_import: ["": {opset}]>
        g (float[2, 2, 3, 4] q, float{key} k, float[2, 2, 5, 4] v{bias}) => (float[2, 2, 3, 4] y) {{
        u = Transpose<perm = {perm}>(k) {before} m = MatMul({left}, {right}) {score} {masked}
        p = Softmax<axis = {axis}>({"a" if mask else scored}) y = MatMul(p, v) }}"""


def _examples(scale: str, mask: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    numbers = {"none": {}, "div": {"f": 2.0}, "mul": {"f": 0.5}, "query": {"f": 0.5}, "both": {"f": 0.7, "o": 0.7}}

    def make(rng: np.random.Generator) -> Iterable[Example]:
        weights = {name: np.array(value, np.float32) for name, value in numbers[scale].items()}
        dtypes = (ir.DataType.FLOAT,)
        plain, cached = ("[0, 1, 3, 2]", "[2, 2, 5, 4]"), ("[0, 2, 3, 1]", "[2, 5, 2, 4]")

        def one(name: str, opset: int, form: tuple[str, str], mask_shape: str, axis: int, applies: bool) -> Example:
            text = _text(opset, scale, mask, *form, mask_shape, axis)
            return Example.from_text(name, text, applies=applies, dtypes=dtypes, **weights)

        yield one("heads first", 23, plain, "[3, 5]", -1, True)
        yield one("heads inside", 24, cached, "[2, 1, 3, 5]", 3, True)
        yield one("softmax over queries", 23, plain, "[3, 5]", 2, False)
        yield one("older opset", 22, plain, "[3, 5]", -1, False)
        if mask:
            yield one("vector mask", 23, plain, "[5]", -1, False)

    return make


REWRITES = tuple(
    Rewrite(
        f"fuse_attention_{scale}" + ("_mask" if mask else ""),
        _pattern(scale, mask),
        _replacement(scale),
        _CONTRACT,
        _examples(scale, mask),
        _condition(scale),
    )
    for scale, mask in itertools.product(SCALES, (True, False))
)


class FuseAttention(RewritePass):
    """Spell scaled dot-product attention over [batch, heads, sequence, size] with its own operator (opset 23).

    1. Scores scaled by a constant (after the product, on the query, or on query and key) or not, with an additive mask
       or not, normalized over the keys: fuse. What is left of the key's transpose stays before the operator.
    2. Constants and masks stand second: :class:`porting_passes.order_operands.OrderOperands` sees to constants.
    3. Query, key and value differ in batch or heads, a mask whose last extent is not the number of keys, a scale that
       is computed or not positive, scores that something else reads, or float64: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
