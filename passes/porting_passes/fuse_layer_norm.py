"""ReduceMean, Sub, Pow or Mul, ReduceMean, Add, Sqrt, Div, Mul, Add  ->  LayerNormalization."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example
from porting_passes.decompose_reduction import reduction_axes
from porting_passes.node_facts import attribute, rank, static_dims
from porting_passes.pattern_facts import has_dtype, is_number, number_of, producer
from porting_passes.rewrite import Accepts, Rewrite, RewritePass

DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""float64 stays as it is: runtimes compute the fused operator's statistics in float32."""

_CONTRACT = Contract(
    "tolerance",
    4e-6,
    "sums in another order; narrow floats get statistics in float32 where the chain rounds every step",
    nonfinite=False,
)


def normalized_axis(reductions: list[ir.Node], x: ir.Value) -> int | None:
    """The first axis, counted from the end, when all reductions keep dims and run over the same trailing axes of x."""
    dims = rank(x)
    axes = [reduction_axes(node, dims) for node in reductions]
    if dims is None or any(attribute(node, "keepdims", 1) != 1 for node in reductions):
        return None
    first = axes[0]
    if isinstance(first, str) or not first or any(other != first for other in axes):
        return None
    return first[0] - dims if first == list(range(first[0], dims)) else None


def covers(value: ir.Value, x: ir.Value, axis: int) -> bool:
    """Whether a scale or bias has exactly the extents of x from ``axis`` (negative) on."""
    dims = None if x.shape is None else x.shape[axis:]
    own = static_dims(value)
    return own is not None and dims is not None and own == tuple(dims)


def square(op: Any, form: str, x: Any, two: Any) -> Any:
    """x squared as a Pow by a constant (bound to ``two``) or as a product."""
    return op.Pow(x, two) if form == "pow" else op.Mul(x, x)


def _pattern(form: str, bias: bool) -> Callable[..., Any]:
    def norm(op: Any, x: Any, epsilon: Any, scale: Any, two: Any) -> Any:
        mean = op.ReduceMean(x, _allow_other_inputs=True, _outputs=["mean"])
        centred = op.Sub(x, mean)
        variance = op.ReduceMean(square(op, form, centred, two), _allow_other_inputs=True, _outputs=["variance"])
        return op.Mul(op.Div(centred, op.Sqrt(op.Add(variance, epsilon))), scale)

    if form == "pow" and bias:
        return lambda op, x, two, epsilon, scale, offset: op.Add(norm(op, x, epsilon, scale, two), offset)
    if form == "pow":
        return lambda op, x, two, epsilon, scale: norm(op, x, epsilon, scale, two)
    if bias:
        return lambda op, x, epsilon, scale, offset: op.Add(norm(op, x, epsilon, scale, None), offset)
    return lambda op, x, epsilon, scale: norm(op, x, epsilon, scale, None)


def _condition(
    context: Any,
    x: ir.Value,
    mean: ir.Value,
    variance: ir.Value,
    epsilon: ir.Value,
    scale: ir.Value,
    two: ir.Value | None = None,
    offset: ir.Value | None = None,
) -> bool:
    axis = normalized_axis([producer(mean), producer(variance)], x)
    if axis is None or not has_dtype(x, *DTYPES) or number_of(epsilon, x) is None:
        return False
    if two is not None and not is_number(two, 2, x):
        return False
    return covers(scale, x, axis) and (offset is None or covers(offset, x, axis))


def _replacement(
    op: Any,
    x: ir.Value,
    mean: ir.Value,
    variance: ir.Value,
    epsilon: ir.Value,
    scale: ir.Value,
    two: ir.Value | None = None,
    offset: ir.Value | None = None,
) -> ir.Value:
    axis = normalized_axis([producer(mean)], x)
    result: ir.Value = op.LayerNormalization(x, scale, offset, axis=axis, epsilon=number_of(epsilon, x))
    return result


def _examples(form: str, bias: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    def text(opset: int, axes: int = -1) -> str:
        reduce = f"ReduceMean<axes = [{axes}]>({{}})" if opset < 18 else "ReduceMean({}, axes)"
        squared = "Pow(d, two)" if form == "pow" else "Mul(d, d)"
        tail = "s = Mul(n, w) y = Add(s, b)" if bias else "y = Mul(n, w)"
        return f"""<ir_version: 10, opset_import: ["": {opset}]> g (float[2, 3, 8] x) => (float[2, 3, 8] y) {{
            m = {reduce.format("x")} d = Sub(x, m) q = {squared} v = {reduce.format("q")}
            e = Add(v, eps) r = Sqrt(e) n = Div(d, r) {tail} }}"""

    def make(rng: np.random.Generator) -> Iterable[Example]:
        weights = {"w": rng.standard_normal(8).astype(np.float32), "eps": np.array(1e-5, np.float32)}
        if bias:
            weights["b"] = rng.standard_normal(8).astype(np.float32)
        if form == "pow":
            weights["two"] = np.array(2, np.float32)
        last, middle = {"axes": np.array([-1], np.int64)}, {"axes": np.array([1], np.int64)}
        dtypes = DTYPES[:2]
        yield Example.from_text("axes attribute", text(17), dtypes=dtypes, **weights)
        yield Example.from_text("axes input", text(18), dtypes=dtypes, **weights, **last)
        yield Example.from_text("inner axis", text(18), applies=False, dtypes=dtypes, **weights, **middle)
        yield Example.from_text("older opset", text(16), applies=False, dtypes=dtypes, **weights)

    return make


REWRITES = tuple(
    Rewrite(
        f"fuse_layer_norm_{form}" + ("_bias" if bias else ""),
        _pattern(form, bias),
        _replacement,
        _CONTRACT,
        _examples(form, bias),
        _condition,
    )
    for form, bias in itertools.product(("pow", "mul"), (True, False))
)
"""Those with a bias come first: without it they match the inner part of the same nodes."""


class FuseLayerNorm(RewritePass):
    """Spell a normalization over trailing axes with its own operator (opset 17).

    1. (x - mean) / Sqrt(mean((x - mean)^2) + epsilon) * scale, the square as Pow or Mul, with or without a bias: fuse.
    2. Constants stand second in sums and products: :class:`porting_passes.order_operands.OrderOperands` sees to that.
    3. The axes are not the last ones, scale or bias do not have exactly their extents, epsilon is computed at run time,
       an inner value has another consumer, or the dtype is float64: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
