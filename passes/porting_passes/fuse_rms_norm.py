"""Pow or Mul, ReduceMean, Add, Sqrt, Div or Reciprocal, Mul  ->  RMSNormalization."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example
from porting_passes.fuse_layer_norm import DTYPES, covers, normalized_axis, square
from porting_passes.node_facts import attribute
from porting_passes.pattern_facts import has_dtype, is_number, number_of, producer
from porting_passes.rewrite import Accepts, Rewrite, RewritePass

_CONTRACT = Contract(
    "tolerance",
    4e-6,
    "sums in another order; narrow floats get statistics in float32 where the chain rounds every step",
    nonfinite=False,
)
QUOTIENTS = ("div", "reciprocal", "one", "reciprocal_first", "one_first")
_FORMS = tuple(itertools.product(("pow", "mul"), QUOTIENTS, (False, True)))
"""The square; how the root divides, as x / r or a product with 1 / r on either side; whether Casts enclose it."""


def _pattern(form: str, quotient: str, cast: bool) -> Callable[..., Any]:
    def norm(op: Any, source: Any, epsilon: Any, scale: Any, two: Any, one: Any) -> Any:
        x = op.Cast(source, _outputs=["x"]) if cast else source
        power = op.ReduceMean(square(op, form, x, two), _allow_other_inputs=True, _outputs=["power"])
        root = op.Sqrt(op.Add(power, epsilon))
        if quotient == "div":
            y = op.Div(x, root)
        else:
            inverse = op.Div(one, root) if quotient.startswith("one") else op.Reciprocal(root)
            y = op.Mul(inverse, x) if quotient.endswith("first") else op.Mul(x, inverse)
        return op.Mul(op.Cast(y, _outputs=["narrow"]) if cast else y, scale)

    if form == "pow" and quotient.startswith("one"):
        return lambda op, source, two, one, epsilon, scale: norm(op, source, epsilon, scale, two, one)
    if form == "pow":
        return lambda op, source, two, epsilon, scale: norm(op, source, epsilon, scale, two, None)
    if quotient.startswith("one"):
        return lambda op, source, one, epsilon, scale: norm(op, source, epsilon, scale, None, one)
    return lambda op, source, epsilon, scale: norm(op, source, epsilon, scale, None, None)


def _condition(
    context: Any,
    source: ir.Value,
    power: ir.Value,
    epsilon: ir.Value,
    scale: ir.Value,
    two: ir.Value | None = None,
    one: ir.Value | None = None,
    x: ir.Value | None = None,
    narrow: ir.Value | None = None,
) -> bool:
    axis = normalized_axis([producer(power)], source)
    if axis is None or not has_dtype(source, *DTYPES) or number_of(epsilon, source) is None:
        return False
    if (two is not None and not is_number(two, 2, source)) or (one is not None and not is_number(one, 1, source)):
        return False
    if x is not None and narrow is not None:
        back = attribute(producer(narrow), "to")
        if attribute(producer(x), "to") != ir.DataType.FLOAT or back != source.dtype:
            return False
    return covers(scale, source, axis) and scale.dtype == source.dtype


def _replacement(op: Any, source: ir.Value, power: ir.Value, epsilon: ir.Value, scale: ir.Value, **_: Any) -> ir.Value:
    axis = normalized_axis([producer(power)], source)
    result: ir.Value = op.RMSNormalization(source, scale, axis=axis, epsilon=number_of(epsilon, source))
    return result


def _text(opset: int, form: str, quotient: str, cast: bool) -> str:
    squared = "Pow(x, two)" if form == "pow" else "Mul(x, x)"
    quotients = {
        "div": "n = Div(x, r)",
        "reciprocal": "i = Reciprocal(r) n = Mul(x, i)",
        "one": "i = Div(one, r) n = Mul(x, i)",
        "reciprocal_first": "i = Reciprocal(r) n = Mul(i, x)",
        "one_first": "i = Div(one, r) n = Mul(i, x)",
    }
    dtype, before, after = "float", "", "y = Mul(n, w)"
    source = "x"
    if cast:
        dtype, source = "float16", "h"
        before, after = "x = Cast<to = 1>(h)", "c = Cast<to = 10>(n) y = Mul(c, w)"
    return f"""<ir_version: 10, opset_import: ["": {opset}]> g ({dtype}[2, 3, 8] {source}) => ({dtype}[2, 3, 8] y) {{
        {before} q = {squared} p = ReduceMean(q, axes) e = Add(p, eps) r = Sqrt(e) {quotients[quotient]} {after} }}"""


def _examples(form: str, quotient: str, cast: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    def make(rng: np.random.Generator) -> Iterable[Example]:
        scale = rng.standard_normal(8).astype(np.float16 if cast else np.float32)
        weights = {"w": scale, "eps": np.array([1e-6], np.float32)}
        if form == "pow":
            weights["two"] = np.array(2, np.float32)
        if quotient.startswith("one"):
            weights["one"] = np.array(1, np.float32)
        dtypes = DTYPES[:1] if cast else DTYPES[:2]
        last, middle = {"axes": np.array([2], np.int64)}, {"axes": np.array([1], np.int64)}
        new, old = _text(23, form, quotient, cast), _text(22, form, quotient, cast)
        yield Example.from_text("last axis", new, dtypes=dtypes, **weights, **last)
        yield Example.from_text("inner axis", new, applies=False, dtypes=dtypes, **weights, **middle)
        yield Example.from_text("older opset", old, applies=False, dtypes=dtypes, **weights, **last)

    return make


REWRITES = tuple(
    Rewrite(
        f"fuse_rms_norm_{form}_{quotient}" + ("_cast" if cast else ""),
        _pattern(form, quotient, cast),
        _replacement,
        _CONTRACT,
        _examples(form, quotient, cast),
        _condition,
    )
    for form, quotient, cast in _FORMS
)


class FuseRmsNorm(RewritePass):
    """Spell a root-mean-square normalization over trailing axes with its own operator (opset 23).

    1. x / Sqrt(mean(x^2) + epsilon) * scale, the square as Pow or Mul, the quotient as Div or a product: fuse.
    2. The same in float32 between Casts from and to a narrower dtype: fuse; the operator computes just so.
    3. Constants stand second in sums and products: :class:`porting_passes.order_operands.OrderOperands` sees to that.
    4. The axes are not the last ones, the scale does not have exactly their extents, epsilon is computed at run time,
       an inner value has another consumer, or the dtype is float64: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
