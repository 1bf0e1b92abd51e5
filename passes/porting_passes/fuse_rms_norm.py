"""Pow or Mul, ReduceMean, Add, Sqrt, Div or Reciprocal, Mul  ->  RMSNormalization, or porting.RMSNorm."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example
from porting_passes.fuse_layer_norm import DTYPES, covers, normalized_axis
from porting_passes.node_facts import attribute, static_dims
from porting_passes.pattern_facts import has_dtype, is_number, number_of
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract(
    "tolerance",
    4e-6,
    "sums in another order; narrow floats get statistics in float32 where the chain rounds every step",
    nonfinite=False,
)
_FLOAT, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the product with the scale: up to x, then down over the Cast that closes a chain in float32."""
    for index in (0, 1):
        quotient, scale = node.inputs[index], node.inputs[1 - index]
        if static_dims(scale) is not None and trail.peek(quotient, "Mul", "Div", "Cast") is not None:
            break
    else:
        trail.fail()
    inner = trail.peek(quotient, "Cast")
    if inner is not None:
        quotient = trail.up(quotient, "Cast").inputs[0]
    x, power = _statistics(trail, quotient)
    epsilon_sum = trail.up(power, "Add")
    mean, epsilon = trail.operand(epsilon_sum, "ReduceMean")
    square = trail.up(mean.inputs[0], "Pow", "Mul")
    trail.require(square.inputs[0] is x)
    trail.require(square.inputs[1] is x if square.op_type == "Mul" else is_number(square.inputs[1], 2, x))

    source, opening = x, trail.peek(x, "Cast")
    if opening is not None and opening.inputs[0] is not None and attribute(opening, "to") == _FLOAT:
        closing = inner or trail.down(node.outputs[0], "Cast")
        if closing is not None and attribute(closing, "to") == opening.inputs[0].dtype:
            # The Cast at the top may serve others too, such as a sum that goes on in float32.
            trail.up(x, "Cast", shared=True)
            source = opening.inputs[0]
            if closing is not inner:
                trail.outputs = [trail.follow(closing)]
    trail.require(source is not x or inner is None)
    axis, number = normalized_axis([mean], source), number_of(epsilon, source)
    trail.require(axis is not None and number is not None and has_dtype(source, *DTYPES))
    assert axis is not None
    assert scale is not None
    trail.require(covers(scale, source, axis))
    return {"x": source, "scale": scale, "axis": axis, "epsilon": number}


def _statistics(trail: Trail, quotient: ir.Value | None) -> tuple[ir.Value, ir.Value]:
    """x and the sum under the root, of x / root, x * (1 / root) and the like."""
    node = trail.up(quotient, "Div", "Mul")
    if node.op_type == "Div":
        x, root = node.inputs[0], node.inputs[1]
    else:
        inverse, x = trail.operand(node, "Reciprocal", "Div")
        if inverse.op_type == "Div":
            trail.require(is_number(inverse.inputs[0], 1, x))
        root = inverse.inputs[-1]
    power = trail.up(root, "Sqrt").inputs[0]
    if x is None or power is None:
        trail.fail()
    return x, power


def _match_standard(trail: Trail, node: ir.Node) -> dict[str, Any]:
    found = _match(trail, node)
    trail.require(found["scale"].dtype == found["x"].dtype)
    return found


def _match_composite(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """The last axis only; ``1 + weight`` becomes an attribute."""
    found = _match(trail, node)
    trail.require(found.pop("axis") == -1)
    found["weight_offset"] = 0.0
    offset = trail.peek(found["scale"], "Add")
    if offset is not None:
        for weight, number in (offset.inputs, offset.inputs[::-1]):
            if weight is not None and number_of(number, weight) is not None and covers(weight, found["x"], -1):
                trail.up(found["scale"], "Add", shared=True)
                found["scale"], found["weight_offset"] = weight, number_of(number, weight)
                break
    return found


def _text(opset: int, form: str, quotient: str, cast: str, scaled: str = "y = Mul(n, w)") -> str:
    squared = "Pow(x, two)" if form == "pow" else "Mul(x, x)"
    quotients = {
        "div": "n = Div(x, r)",
        "reciprocal": "i = Reciprocal(r) n = Mul(x, i)",
        "one": "i = Div(one, r) n = Mul(x, i)",
        "reciprocal_first": "i = Reciprocal(r) n = Mul(i, x)",
        "one_first": "i = Div(one, r) n = Mul(i, x)",
    }
    dtype, source, before, after = "float", "x", "", scaled
    if cast:
        dtype, source, before = "float16", "h", "x = Cast<to = 1>(h)"
        after = {
            "inner": "c = Cast<to = 10>(n) y = Mul(c, w)",
            "outer": "c = Mul(n, w) y = Cast<to = 10>(c)",
            "narrowed only": "c = Mul(n, w) y = Cast<to = 10>(c) z = Neg(x)",
        }[cast]
    extra = ", float[2, 3, 8] z" if cast == "narrowed only" else ""
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g ({dtype}[2, 3, 8] {source}) => ({dtype}[2, 3, 8] y{extra})'
    return f"""{head} {{
        {before} q = {squared} p = ReduceMean(q, axes) e = Add(p, eps) r = Sqrt(e) {quotients[quotient]} {after} }}"""


def _weights(rng: np.random.Generator, form: str, quotient: str, cast: str) -> dict[str, np.ndarray]:
    scale = rng.standard_normal(8).astype(np.float16 if cast == "inner" else np.float32)
    weights: dict[str, np.ndarray] = {"w": scale, "eps": np.array([1e-6], np.float32)}
    if form == "pow":
        weights["two"] = np.array(2, np.float32)
    if quotient.startswith("one"):
        weights["one"] = np.array(1, np.float32)
    return weights


_QUOTIENTS = ("div", "reciprocal", "one", "reciprocal_first", "one_first")


def _examples(composite: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    casts = ("", "inner", "outer", "narrowed only") if composite else ("", "inner")
    opset = 20 if composite else 23

    def make(rng: np.random.Generator) -> Iterable[Example]:
        last, middle = {"axes": np.array([2], np.int64)}, {"axes": np.array([1], np.int64)}
        for form, quotient, cast in itertools.product(("pow", "mul"), _QUOTIENTS, casts):
            weights = _weights(rng, form, quotient, cast)
            dtypes = DTYPES[:1] if cast else DTYPES[:2]
            name = " ".join((form, quotient, cast))
            text = _text(opset, form, quotient, cast)
            yield Example.from_text(f"{name}, last axis", text, dtypes=dtypes, **weights, **last)
            yield Example.from_text(f"{name}, inner axis", text, applies=False, dtypes=dtypes, **weights, **middle)
        weights = _weights(rng, "pow", "reciprocal", "") | last
        first = _text(opset, "pow", "reciprocal", "", "y = Mul(w, n)")
        yield Example.from_text("scale first", first, dtypes=DTYPES[:2], **weights)
        offset = _text(opset, "pow", "reciprocal", "", "s = Add(w, c) y = Mul(n, s)").replace(" {", " <float[8] s> {")
        yield Example.from_text("1 + weight", offset, dtypes=DTYPES[:2], c=np.array(1, np.float32), **weights)
        shared = _text(opset, "pow", "reciprocal", "", "y = Mul(n, w) z = Neg(r)").replace(" y) {", " y, float t) {")
        shared = shared.replace("float t", "float[2, 3, 1] z")
        yield Example.from_text("shared root", shared, applies=False, dtypes=DTYPES[:2], **weights)
        if not composite:
            old = _text(22, "pow", "reciprocal", "")
            yield Example.from_text("older opset", old, applies=False, dtypes=DTYPES[:2], **weights)

    return make


_STANDARD = Search(
    "fuse_rms_norm",
    ("", "Mul"),
    _match_standard,
    lambda op, x, scale, axis, epsilon: op.RMSNormalization(x, scale, axis=axis, epsilon=epsilon),
    _CONTRACT,
    _examples(composite=False),
)
_COMPOSITE = Search(
    "fuse_rms_norm_composite",
    ("", "Mul"),
    _match_composite,
    lambda op, x, scale, epsilon, weight_offset: op.RMSNorm(
        x, scale, epsilon=epsilon, weight_offset=weight_offset or None, _domain="porting"
    ),
    _CONTRACT,
    _examples(composite=True),
)
REWRITES = (_STANDARD, _COMPOSITE)


class FuseRmsNorm(RewritePass):
    """Spell a root-mean-square normalization over trailing axes with its own operator.

    1. x / Sqrt(mean(x^2) + epsilon) * scale, the square as Pow or Mul, the quotient as Div or a product, operands in
       any order: RMSNormalization, where the opset (23) and ``accepts`` take it.
    2. The same in float32 between Casts from and to a narrower dtype, the second one before or after the scale: fuse;
       the operator computes just so.
    3. With ``composite``, where there is no RMSNormalization: porting.RMSNorm, over the last axis; the 1 of Gemma's
       1 + weight becomes its attribute.
    4. The axes are not the last ones, the scale does not have exactly their extents, epsilon is computed at run time,
       an inner value has another consumer, or the dtype is float64: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None, composite: bool = False) -> None:
        super().__init__(REWRITES if composite else REWRITES[:1], accepts=accepts)
