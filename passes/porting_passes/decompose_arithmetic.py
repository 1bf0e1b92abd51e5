"""Sqrt, Reciprocal, Neg, Abs, Sign, Sub, Div and Pow by each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import EXACT, Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import required, small_constant

_X = case("matrix", Run((3, 5)))


def _not_float(node: ir.Node, opset: int) -> str | None:
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    return None if dtype is not None and dtype.is_floating_point() else "the operand is not known to be floating point"


def _sqrt_by_pow(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Pow(x, b.scalar(0.5, x))]


def _reciprocal_by_div(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Div(b.scalar(1, x), x)]


def _neg_by_mul(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Mul(x, b.scalar(-1, x))]


def _neg_by_sub(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Sub(b.scalar(0, x), x)]


def _abs_by_max(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Max(x, b.Neg(x))]


def _abs_by_relu(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Add(b.Relu(x), b.Relu(b.Neg(x)))]


def _sign_by_comparison(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Sign(x) = (x > 0) - (x < 0)."""
    x = required(node, 0)
    zero, dtype = b.scalar(0, x), b.dtype_of(x)
    return [b.Sub(b.cast(b.Greater(x, zero), dtype), b.cast(b.Less(x, zero), dtype))]


def _sub_by_add(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Add(required(node, 0), b.Neg(required(node, 1)))]


def _div_by_reciprocal(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Mul(required(node, 0), b.Reciprocal(required(node, 1)))]


def _exponent(node: ir.Node) -> float | None:
    value = small_constant(node.inputs[1])
    return float(value.reshape(())) if value is not None and value.size == 1 and value.ndim == 0 else None


def _pow_is_product(node: ir.Node, opset: int) -> str | None:
    return None if _exponent(node) in (1.0, 2.0, 3.0, 4.0) else "the exponent is not a constant scalar 1, 2, 3 or 4"


def _pow_by_mul(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, exponent = required(node, 0), _exponent(node)
    if exponent == 1.0:
        return [x]
    square = b.Mul(x, x)
    return [{2.0: lambda: square, 3.0: lambda: b.Mul(square, x), 4.0: lambda: b.Mul(square, square)}[exponent or 2.0]()]


def _pow_is_root(node: ir.Node, opset: int) -> str | None:
    return _not_float(node, opset) or (None if _exponent(node) == 0.5 else "the exponent is not a constant scalar 0.5")


def _pow_by_sqrt(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return [b.Sqrt(required(node, 0))]


def _scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


DECOMPOSITIONS = (
    Decomposition(
        "sqrt_by_pow",
        "Sqrt",
        _sqrt_by_pow,
        Contract("ulp", 2, "pow is not correctly rounded; Pow(-inf, 0.5) is +inf where Sqrt is NaN", nonfinite=False),
        examples("Sqrt", _X),
        _not_float,
    ),
    Decomposition("reciprocal_by_div", "Reciprocal", _reciprocal_by_div, EXACT, examples("Reciprocal", _X)),
    Decomposition("neg_by_mul", "Neg", _neg_by_mul, EXACT, examples("Neg", _X)),
    Decomposition(
        "neg_by_sub",
        "Neg",
        _neg_by_sub,
        Contract("ulp", 1, "equal but for the sign of a zero result"),
        examples("Neg", _X),
    ),
    Decomposition(
        "abs_by_max",
        "Abs",
        _abs_by_max,
        Contract("ulp", 1, "equal but for the sign of a zero result"),
        examples("Abs", _X),
    ),
    Decomposition(
        "abs_by_relu",
        "Abs",
        _abs_by_relu,
        Contract("ulp", 1, "equal, but what Relu makes of NaN is not specified", nonfinite=False),
        examples("Abs", _X),
        _not_float,
    ),
    Decomposition(
        "sign_by_comparison",
        "Sign",
        _sign_by_comparison,
        Contract("ulp", 1, "equal, but NaN gives 0", nonfinite=False),
        examples("Sign", _X),
    ),
    Decomposition("sub_by_add", "Sub", _sub_by_add, EXACT, examples("Sub", case("row", Run((3, 5)), Run((5,))))),
    Decomposition(
        "div_by_reciprocal",
        "Div",
        _div_by_reciprocal,
        Contract("ulp", 2, "two roundings for one; 1/y may overflow or underflow on its own", nonfinite=False),
        examples("Div", case("row", Run((3, 5)), np.linspace(0.5, 3.0, 5, dtype=np.float32))),
        _not_float,
        last_resort=True,
    ),
    Decomposition(
        "pow_by_mul",
        "Pow",
        _pow_by_mul,
        Contract("ulp", 4, "pow and repeated multiplication round differently"),
        examples(
            "Pow",
            case("square", Run((3, 5)), _scalar(2)),
            case("cube", Run((3, 5)), _scalar(3)),
            case("fourth", Run((3, 5)), _scalar(4)),
            Case("half", (Run((3, 5)), _scalar(0.5)), applies=False),
        ),
        _pow_is_product,
    ),
    Decomposition(
        "pow_by_sqrt",
        "Pow",
        _pow_by_sqrt,
        Contract("ulp", 4, "pow is not correctly rounded; the two differ at -inf", nonfinite=False),
        examples("Pow", case("root", Run((3, 5)), _scalar(0.5))),
        _pow_is_root,
    ),
)
