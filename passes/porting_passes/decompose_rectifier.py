"""LeakyRelu, PRelu, Elu, Selu, Celu, ThresholdedRelu, Shrink, Softsign and HardSigmoid by Relu, Exp and Clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import is_float32, number, required, small_constant

_X = case("matrix", Run((3, 5)))
_NARROW = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""Where the stock runtime computes the operator in float32 even for float64."""
_ZERO = Contract("ulp", 1, "equal but for the sign of a zero, and for NaN, which Relu may drop", nonfinite=False)


def _negative_part(b: Builder, x: ir.Value) -> ir.Value:
    """max(-x, 0)."""
    return b.Relu(b.Neg(x))


def _leaky_relu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Relu(x) - alpha Relu(-x): one of the two terms is zero, so the sum does not round."""
    x = required(node, 0)
    return [b.Sub(b.Relu(x), b.Mul(_negative_part(b, x), b.scalar(number(node, "alpha", 0.01), x)))]


def _prelu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, slope = required(node, 0), required(node, 1)
    return [b.Sub(b.Relu(x), b.Mul(_negative_part(b, x), slope))]


def _one_slope(node: ir.Node, opset: int) -> str | None:
    slope = small_constant(node.inputs[1])
    if slope is None or slope.size == 0 or not (slope == slope.flat[0]).all():
        return "the slope is not a constant with one value in all of at most 64 places"
    return None if is_float32(float(slope.flat[0])) else "the slope is finer than a float32 attribute"


def _prelu_by_leaky_relu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    slope = small_constant(node.inputs[1])
    assert slope is not None
    return [b.LeakyRelu(required(node, 0), alpha=float(slope.flat[0]))]


def _exponential(b: Builder, x: ir.Value, scale: float, alpha: float, inner: float) -> ir.Value:
    """scale * (x for x > 0, alpha * (exp(x / inner) - 1) else); exp sees min(x, 0) only and cannot overflow."""
    low = b.Neg(_negative_part(b, x))
    if inner != 1.0:
        low = b.Mul(low, b.scalar(1.0 / inner, x))
    tail = b.Sub(b.Exp(low), b.scalar(1, x))
    if scale * alpha != 1.0:
        tail = b.Mul(tail, b.scalar(scale * alpha, x))
    head = b.Relu(x)
    return b.Add(head if scale == 1.0 else b.Mul(head, b.scalar(scale, x)), tail)


def _elu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [_exponential(b, required(node, 0), 1.0, number(node, "alpha", 1.0), 1.0)]


def _selu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    alpha = number(node, "alpha", 1.67326319217681884765625)
    gamma = number(node, "gamma", 1.05070102214813232421875)
    return [_exponential(b, required(node, 0), gamma, alpha, 1.0)]


def _celu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    alpha = number(node, "alpha", 1.0)
    return [_exponential(b, required(node, 0), 1.0, alpha, alpha)]


def _positive_alpha(node: ir.Node, opset: int) -> str | None:
    return None if number(node, "alpha", 1.0) > 0 else "alpha is not positive"


def _thresholded_relu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Where(b.Greater(x, b.scalar(number(node, "alpha", 1.0), x)), x, b.scalar(0, x))]


def _shrink(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    limit, bias = number(node, "lambd", 0.5), b.scalar(number(node, "bias", 0.0), x)
    low = b.Where(b.Less(x, b.scalar(-limit, x)), b.Add(x, bias), b.scalar(0, x))
    return [b.Where(b.Greater(x, b.scalar(limit, x)), b.Sub(x, bias), low)]


def _softsign(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Div(x, b.Add(b.Abs(x), b.scalar(1, x)))]


def _hard_sigmoid(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    alpha, beta = number(node, "alpha", 0.2), number(node, "beta", 0.5)
    line = b.Add(b.Mul(x, b.scalar(alpha, x)), b.scalar(beta, x))
    return [b.Clip(line, b.scalar(0, x), b.scalar(1, x))]


_EXP = Contract("tolerance", 1e-6, "exp(x) - 1 cancels near 0 where expm1 does not: absolute error", nonfinite=False)
_SLOPES = np.linspace(-0.5, 0.5, 5, dtype=np.float32)

DECOMPOSITIONS = (
    Decomposition("leaky_relu_by_relu", "LeakyRelu", _leaky_relu, _ZERO, examples("LeakyRelu", _X)),
    Decomposition(
        "prelu_by_relu",
        "PRelu",
        _prelu,
        _ZERO,
        examples("PRelu", case("row", Run((3, 5)), _SLOPES), case("run-time slope", Run((3, 5)), Run((3, 5)))),
    ),
    Decomposition(
        "prelu_by_leaky_relu",
        "PRelu",
        _prelu_by_leaky_relu,
        _ZERO,
        examples(
            "PRelu",
            case("uniform", Run((2, 3, 4)), np.full((3, 1), 0.25, np.float32)),
            Case("varied", (Run((3, 5)), _SLOPES), applies=False),
            Case("finer than float32", (Run((3, 5), ir.DataType.DOUBLE), np.array([0.1])), applies=False),
        ),
        _one_slope,
    ),
    Decomposition("elu_by_exp", "Elu", _elu, _EXP, examples("Elu", _X, case("alpha", Run((3, 5)), alpha=0.5))),
    Decomposition("selu_by_exp", "Selu", _selu, _EXP, examples("Selu", _X)),
    Decomposition(
        "celu_by_exp",
        "Celu",
        _celu,
        _EXP,
        examples("Celu", _X, case("alpha", Run((3, 5)), alpha=2.0), dtypes=(ir.DataType.FLOAT,)),
        _positive_alpha,
    ),
    Decomposition(
        "thresholded_relu_by_where",
        "ThresholdedRelu",
        _thresholded_relu,
        Contract("ulp", 1, "equal, but NaN gives 0", nonfinite=False),
        examples("ThresholdedRelu", _X),
    ),
    Decomposition(
        "shrink_by_where",
        "Shrink",
        _shrink,
        Contract("ulp", 1, "equal, but NaN gives 0", nonfinite=False),
        examples("Shrink", _X, case("soft", Run((3, 5)), lambd=0.5, bias=0.5), dtypes=_NARROW),
    ),
    Decomposition(
        "softsign_by_div",
        "Softsign",
        _softsign,
        Contract("ulp", 2, "the quotient is formed in the same order; runtimes may multiply by a reciprocal"),
        examples("Softsign", _X),
    ),
    Decomposition(
        "hard_sigmoid_by_clip",
        "HardSigmoid",
        _hard_sigmoid,
        Contract(
            "tolerance", 5e-7, "alpha x + beta may be contracted to one rounding; Clip may drop NaN", nonfinite=False
        ),
        examples("HardSigmoid", _X, case("sixth", Run((3, 5)), alpha=1 / 6, beta=0.5)),
    ),
)
