"""x, Erf or Tanh, Add, Mul  ->  Gelu."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example
from porting_passes.pattern_facts import is_number
from porting_passes.rewrite import Accepts, Rewrite, RewritePass

_ERF = Contract("tolerance", 2e-6, "the fused operator rounds once; 1/sqrt(2) has been rounded in the chain")
_TANH = Contract(
    "tolerance", 4e-6, "the fused operator rounds once; the cubic is summed in another order", nonfinite=False
)

OUTER = ("half_last", "half_gate", "half_x")
"""(x * gate) * 0.5,  x * (gate * 0.5),  (x * 0.5) * gate."""
INNER = {"div": "x / sqrt(2)", "mul": "x * sqrt(1/2)"}
CUBE = ("pow", "product", "turned", "factored")
"""x + 0.044715 x^3 with Pow, with (x*x)*x, with x*(x*x), or as x * (1 + 0.044715 x^2)."""


Flip = bool
"""Whether the two run-time operands of a product or sum stand in the other order. Constants always stand second."""


def _times(op: Any, a: Any, b: Any, flip: Flip) -> Any:
    return op.Mul(b, a) if flip else op.Mul(a, b)


def _outer(op: Any, form: str, x: Any, gate: Any, half: Any, flip: Flip) -> Any:
    if form == "half_last":
        return op.Mul(_times(op, x, gate, flip), half)
    if form == "half_gate":
        return _times(op, x, op.Mul(gate, half), flip)
    return _times(op, op.Mul(x, half), gate, flip)


def _erf_pattern(outer: str, inner: str, flip: Flip) -> Callable[..., Any]:
    def pattern(op: Any, x: Any, half: Any, one: Any, root: Any) -> Any:
        scaled = op.Div(x, root) if inner == "div" else op.Mul(x, root)
        return _outer(op, outer, x, op.Add(op.Erf(scaled), one), half, flip)

    return pattern


def _erf_condition(inner: str) -> Callable[..., bool]:
    expected = math.sqrt(2) if inner == "div" else math.sqrt(0.5)

    def condition(context: Any, x: ir.Value, half: ir.Value, one: ir.Value, root: ir.Value) -> bool:
        return is_number(half, 0.5, x) and is_number(one, 1, x) and is_number(root, expected, x)

    return condition


def _tanh_pattern(outer: str, cube: str, flip: Flip, inner_flip: Flip) -> Callable[..., Any]:
    def plus(op: Any, a: Any, b: Any) -> Any:
        return op.Add(b, a) if inner_flip else op.Add(a, b)

    def whole(op: Any, cubic: Any, x: Any, half: Any, one: Any, root: Any) -> Any:
        return _outer(op, outer, x, op.Add(op.Tanh(op.Mul(cubic, root)), one), half, flip)

    def powered(op: Any, x: Any, half: Any, one: Any, root: Any, small: Any, three: Any) -> Any:
        return whole(op, plus(op, x, op.Mul(op.Pow(x, three), small)), x, half, one, root)

    def multiplied(op: Any, x: Any, half: Any, one: Any, root: Any, small: Any) -> Any:
        return whole(op, plus(op, x, op.Mul(op.Mul(op.Mul(x, x), x), small)), x, half, one, root)

    def turned(op: Any, x: Any, half: Any, one: Any, root: Any, small: Any) -> Any:
        return whole(op, plus(op, x, op.Mul(op.Mul(x, op.Mul(x, x)), small)), x, half, one, root)

    def factored(op: Any, x: Any, half: Any, one: Any, root: Any, small: Any, unit: Any) -> Any:
        factor = op.Add(op.Mul(op.Mul(x, x), small), unit)
        return whole(op, _times(op, x, factor, inner_flip), x, half, one, root)

    forms: dict[str, Callable[..., Any]] = {
        "pow": powered,
        "product": multiplied,
        "turned": turned,
        "factored": factored,
    }
    return forms[cube]


def _tanh_condition(
    context: Any,
    x: ir.Value,
    half: ir.Value,
    one: ir.Value,
    root: ir.Value,
    small: ir.Value,
    three: ir.Value | None = None,
    unit: ir.Value | None = None,
) -> bool:
    return (
        is_number(half, 0.5, x)
        and is_number(one, 1, x)
        and is_number(root, math.sqrt(2 / math.pi), x)
        and is_number(small, 0.044715, x)
        and (three is None or is_number(three, 3, x))
        and (unit is None or is_number(unit, 1, x))
    )


def _examples(
    gate: str, outer: str, flip: Flip, **numbers: float
) -> Callable[[np.random.Generator], Iterable[Example]]:
    tail = {
        ("half_last", False): "m = Mul(x, g) y = Mul(m, half)",
        ("half_last", True): "m = Mul(g, x) y = Mul(m, half)",
        ("half_gate", False): "m = Mul(g, half) y = Mul(x, m)",
        ("half_gate", True): "m = Mul(g, half) y = Mul(m, x)",
        ("half_x", False): "m = Mul(x, half) y = Mul(m, g)",
        ("half_x", True): "m = Mul(x, half) y = Mul(g, m)",
    }[outer, flip]

    def text(opset: int) -> str:
        return f'<ir_version: 10, opset_import: ["": {opset}]> n (float[3, 5] x) => (float[3, 5] y) {{ {gate} {tail} }}'

    def make(rng: np.random.Generator) -> Iterable[Example]:
        weights = {name: np.array(value, np.float32) for name, value in {"half": 0.5, "one": 1, **numbers}.items()}
        other = {**weights, "half": np.array(0.25, np.float32)}
        dtypes = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
        yield Example.from_text("as exported", text(20), dtypes=dtypes, **weights)
        yield Example.from_text("another factor", text(20), applies=False, dtypes=dtypes, **other)
        yield Example.from_text("older opset", text(19), applies=False, dtypes=dtypes, **weights)

    return make


def _erf_rewrite(outer: str, inner: str, flip: Flip) -> Rewrite:
    scaled, root = ("Div(x, root)", math.sqrt(2)) if inner == "div" else ("Mul(x, root)", math.sqrt(0.5))
    return Rewrite(
        f"fuse_gelu_erf_{inner}_{outer}" + "_flipped" * flip,
        _erf_pattern(outer, inner, flip),
        lambda op, x, **_: op.Gelu(x),
        _ERF,
        _examples(f"a = {scaled} e = Erf(a) g = Add(e, one)", outer, flip, root=root),
        _erf_condition(inner),
    )


def _tanh_rewrite(outer: str, cube: str, flip: Flip, inner_flip: Flip) -> Rewrite:
    total = "Add(s, x)" if inner_flip else "Add(x, s)"
    cubic, numbers = {
        "pow": (f"p = Pow(x, three) s = Mul(p, small) c = {total}", {"three": 3.0}),
        "product": (f"q = Mul(x, x) p = Mul(q, x) s = Mul(p, small) c = {total}", {}),
        "turned": (f"q = Mul(x, x) p = Mul(x, q) s = Mul(p, small) c = {total}", {}),
        "factored": (
            f"q = Mul(x, x) p = Mul(q, small) s = Add(p, unit) c = {total.replace('Add', 'Mul')}",
            {"unit": 1.0},
        ),
    }[cube]
    return Rewrite(
        f"fuse_gelu_tanh_{cube}_{outer}" + "_flipped" * flip + "_turned" * inner_flip,
        _tanh_pattern(outer, cube, flip, inner_flip),
        lambda op, x, **_: op.Gelu(x, approximate="tanh"),
        _TANH,
        _examples(
            f"{cubic} r = Mul(c, root) t = Tanh(r) g = Add(t, one)",
            outer,
            flip,
            root=math.sqrt(2 / math.pi),
            small=0.044715,
            **numbers,
        ),
        _tanh_condition,
    )


_FLIPS = (False, True)
REWRITES = (
    *(_erf_rewrite(*form) for form in itertools.product(OUTER, INNER, _FLIPS)),
    *(_tanh_rewrite(*form) for form in itertools.product(OUTER, CUBE, _FLIPS, _FLIPS)),
)


class FuseGelu(RewritePass):
    """Spell the Gaussian error linear unit with its own operator (opset 20).

    1. 0.5 x (1 + Erf(x / sqrt(2))) in any order of its products -> Gelu.
    2. 0.5 x (1 + Tanh(sqrt(2/pi) (x + 0.044715 x^3))), the cubic as Pow, product or factored -> Gelu, approximate tanh.
    3. Constants stand second in sums and products: :class:`porting_passes.order_operands.OrderOperands` sees to that.
    4. Other constants, constants of a higher rank than x, or an inner value with another consumer: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
