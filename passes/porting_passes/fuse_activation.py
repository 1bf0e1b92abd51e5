"""Sigmoid, Tanh, HardSigmoid and Clip gates -> Swish, Mish, HardSwish, HardSigmoid; chains of clamps -> one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import FLOATS, Contract, Example
from porting_passes.node_facts import is_float32
from porting_passes.pattern_facts import has_dtype, is_number, number_of, producer
from porting_passes.rewrite import Accepts, Rewrite, RewritePass

_GATE = Contract("tolerance", 1e-6, "the fused operator rounds once where gate and product rounded separately")
_HARD = Contract("tolerance", 1e-6, "1/6 is rounded before it is multiplied, where the chain divides", nonfinite=False)
_CLAMP = Contract(
    "ulp", 1, "equal but for the sign of a zero; what clamps make of NaN is not specified", nonfinite=False
)
_FLOAT = (ir.DataType.FLOAT,)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
"""Where 1/6 as a float32 attribute is close enough."""


def _text(opset: int, body: str) -> str:
    return f'<ir_version: 10, opset_import: ["": {opset}]> g (float[3, 5] x) => (float[3, 5] y) {{ {body} }}'


def _examples(
    *cases: tuple[str, int, str, bool], dtypes: tuple[ir.DataType, ...] = _FLOAT, **numbers: float
) -> Callable[[np.random.Generator], Iterable[Example]]:
    """Examples from (name, opset, nodes, whether it applies); ``numbers`` become scalar initializers."""

    def make(rng: np.random.Generator) -> Iterable[Example]:
        for name, opset, body, applies in cases:
            words = set(re.findall(r"\w+", body))
            weights = {key: np.array(value, np.float32) for key, value in numbers.items() if key in words}
            yield Example.from_text(name, _text(opset, body), applies=applies, dtypes=dtypes, **weights)

    return make


def _hard_sigmoid_of(node: ir.Node) -> tuple[float, float]:
    return node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)


def _is_sixth(context: Any, gate: ir.Value, **_: Any) -> bool:
    alpha, beta = _hard_sigmoid_of(producer(gate))
    return abs(alpha - 1 / 6) < 1e-6 and beta == 0.5


def _shifted(op: Any, x: Any, three: Any, low: Any, high: Any) -> Any:
    return op.Clip(op.Add(x, three), low, high)


def _is_shifted(context: Any, x: ir.Value, three: ir.Value, low: ir.Value, high: ir.Value, **rest: ir.Value) -> bool:
    six = rest.get("six")
    return (
        has_dtype(x, *_DTYPES)
        and is_number(three, 3, x)
        and number_of(low) == 0
        and is_number(high, 6)
        and (six is None or is_number(six, 6, x))
    )


def _bounds(clip: ir.Value) -> tuple[float, float] | None:
    """The bounds of a Clip as numbers, open ends infinite; None when one is computed at run time or is NaN."""
    found = []
    for index, end in ((1, -np.inf), (2, np.inf)):
        inputs = producer(clip).inputs
        value = inputs[index] if index < len(inputs) else None
        number = end if value is None else number_of(value)
        if number is None or np.isnan(number):
            return None
        found.append(float(number))
    return found[0], found[1]


def _known_dtype(x: ir.Value) -> bool:
    return x.dtype is not None and x.dtype.is_floating_point()


def _clip(op: Any, x: ir.Value, low: float, high: float) -> ir.Value:
    assert x.dtype is not None
    ends = [
        None if end == opened else op.constant(np.asarray(end).astype(x.dtype.numpy()))
        for end, opened in ((low, -np.inf), (high, np.inf))
    ]
    result: ir.Value = op.Clip(x, *ends)
    return result


def _has_bounds(
    context: Any, x: ir.Value, inner: ir.Value | None = None, outer: ir.Value | None = None, **_: Any
) -> bool:
    """Known bounds, and ranges that overlap: the order of clamps matters only where they do not."""
    bounds = [_bounds(clip) for clip in (inner, outer) if clip is not None]
    if not _known_dtype(x) or any(b is None for b in bounds):
        return False
    known = [(0.0, np.inf)] * (2 - len(bounds)) + [b for b in bounds if b is not None]
    return max(b[0] for b in known) <= min(b[1] for b in known)


def _clamp(op: Any, x: ir.Value, inner: ir.Value | None = None, outer: ir.Value | None = None, **_: Any) -> ir.Value:
    bounds = [_bounds(clip) for clip in (inner, outer) if clip is not None]
    known = [(0.0, np.inf)] * (2 - len(bounds)) + [b for b in bounds if b is not None]
    return _clip(op, x, max(b[0] for b in known), min(b[1] for b in known))


def _scalar_ends(context: Any, x: ir.Value, low: ir.Value, high: ir.Value) -> bool:
    ends = number_of(low, x), number_of(high, x)
    return _known_dtype(x) and ends[0] is not None and ends[1] is not None and ends[0] <= ends[1]


def _clip_ends(op: Any, x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    ends = number_of(low, x), number_of(high, x)
    assert ends[0] is not None
    assert ends[1] is not None
    return _clip(op, x, ends[0], ends[1])


def _alpha_known(context: Any, x: ir.Value, alpha: ir.Value) -> bool:
    """A FLOAT attribute would round what only float64 holds."""
    number = number_of(alpha, x)
    return number is not None and is_float32(number)


REWRITES = (
    Rewrite(
        "fuse_swish",
        lambda op, x: op.Mul(x, op.Sigmoid(x)),
        lambda op, x: op.Swish(x),
        _GATE,
        _examples(
            ("gate right", 24, "s = Sigmoid(x) y = Mul(x, s)", True),
            ("gate left", 24, "s = Sigmoid(x) y = Mul(s, x)", True),
            ("older opset", 22, "s = Sigmoid(x) y = Mul(s, x)", False),
        ),
        commute=True,
    ),
    Rewrite(
        "fuse_swish_alpha",
        lambda op, x, alpha: op.Mul(x, op.Sigmoid(op.Mul(x, alpha))),
        lambda op, x, alpha: op.Swish(x, alpha=number_of(alpha, x)),
        _GATE,
        _examples(("scaled", 24, "a = Mul(x, c) s = Sigmoid(a) y = Mul(x, s)", True), c=1.702),
        _alpha_known,
        commute=True,
    ),
    Rewrite(
        "fuse_mish",
        lambda op, x: op.Mul(x, op.Tanh(op.Softplus(x))),
        lambda op, x: op.Mish(x),
        _GATE,
        _examples(
            ("gate right", 18, "p = Softplus(x) t = Tanh(p) y = Mul(x, t)", True),
            ("older opset", 17, "p = Softplus(x) t = Tanh(p) y = Mul(x, t)", False),
        ),
        commute=True,
    ),
    Rewrite(
        "fuse_hard_swish",
        lambda op, x: op.Mul(x, op.HardSigmoid(x, _outputs=["gate"])),
        lambda op, x, gate: op.HardSwish(x),
        _GATE,
        _examples(
            ("sixth", 14, "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, s)", True),
            ("fifth", 14, "s = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, s)", False),
        ),
        _is_sixth,
        commute=True,
    ),
    Rewrite(
        "fuse_hard_swish_of_product",
        lambda op, x, three, low, high, six: op.Div(op.Mul(x, _shifted(op, x, three, low, high)), six),
        lambda op, x, three, low, high, six: op.HardSwish(x),
        _HARD,
        _examples(
            ("product first", 14, "a = Add(x, c) k = Clip(a, z, d) m = Mul(x, k) y = Div(m, d)", True), c=3, z=0, d=6
        ),
        _is_shifted,
        commute=True,
    ),
    Rewrite(
        "fuse_hard_sigmoid",
        lambda op, x, three, low, high, six: op.Div(_shifted(op, x, three, low, high), six),
        lambda op, x, three, low, high, six: op.HardSigmoid(x, alpha=1 / 6, beta=0.5),
        _HARD,
        _examples(
            ("six", 13, "a = Add(x, c) k = Clip(a, z, d) y = Div(k, d)", True),
            ("three", 13, "a = Add(x, c) k = Clip(a, z, d) y = Div(k, c)", False),
            c=3,
            z=0,
            d=6,
        ),
        _is_shifted,
        commute=True,
    ),
    Rewrite(
        "fuse_relu_relu",
        lambda op, x: op.Relu(op.Relu(x)),
        lambda op, x: op.Relu(x),
        Contract("exact"),
        _examples(("twice", 13, "r = Relu(x) y = Relu(r)", True), dtypes=FLOATS),
    ),
    Rewrite(
        "fuse_relu_clip",
        lambda op, x: op.Clip(op.Relu(x), _allow_other_inputs=True, _outputs=["outer"]),
        _clamp,
        _CLAMP,
        _examples(
            ("upper", 13, "r = Relu(x) y = Clip(r, , d)", True),
            ("below zero", 13, "r = Relu(x) y = Clip(r, m, n)", False),
            d=6,
            m=-2,
            n=-1,
        ),
        _has_bounds,
    ),
    Rewrite(
        "fuse_clip_relu",
        lambda op, x: op.Relu(op.Clip(x, _allow_other_inputs=True, _outputs=["inner"])),
        _clamp,
        _CLAMP,
        _examples(("both", 13, "r = Clip(x, m, d) y = Relu(r)", True), d=6, m=-2),
        _has_bounds,
    ),
    Rewrite(
        "fuse_clip_clip",
        lambda op, x: op.Clip(
            op.Clip(x, _allow_other_inputs=True, _outputs=["inner"]), _allow_other_inputs=True, _outputs=["outer"]
        ),
        _clamp,
        _CLAMP,
        _examples(
            ("overlapping", 13, "r = Clip(x, m, d) y = Clip(r, c, e)", True),
            ("apart", 13, "r = Clip(x, m, c) y = Clip(r, d, e)", False),
            m=-2,
            c=-1,
            d=1,
            e=2,
        ),
        _has_bounds,
    ),
    Rewrite(
        "fuse_max_min",
        lambda op, x, low, high: op.Max(op.Min(x, high), low),
        _clip_ends,
        _CLAMP,
        _examples(("scalars", 13, "r = Min(x, d) y = Max(m, r)", True), m=-2, d=1),
        _scalar_ends,
        commute=True,
    ),
    Rewrite(
        "fuse_min_max",
        lambda op, x, low, high: op.Min(op.Max(x, low), high),
        _clip_ends,
        _CLAMP,
        _examples(("scalars", 13, "r = Max(x, m) y = Min(r, d)", True), m=-2, d=1),
        _scalar_ends,
        commute=True,
    ),
)


class FuseActivation(RewritePass):
    """Spell activations with the operators that mean them.

    1. x * Sigmoid(x), also with a constant factor inside -> Swish (opset 24); x * Tanh(Softplus(x)) -> Mish (18).
    2. x * HardSigmoid(x) with slope 1/6, x * Clip(x + 3, 0, 6) / 6 -> HardSwish (14); without x -> HardSigmoid.
    3. Relu and Clip with constant bounds after one another, Max(Min(x, c), d) -> one Clip, where the ranges overlap.
    4. Something else reads the gate, a bound is computed at run time, or the operator is not accepted: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
