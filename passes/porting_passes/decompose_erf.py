"""Erf by a polynomial in 1 / (1 + p|x|) times Exp(-x*x) (Abramowitz and Stegun, formula 7.1.26)."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Decomposition, Run, case, examples
from porting_passes.node_facts import required

P = 0.3275911
COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
"""a5 ... a1 of formula 7.1.26, highest power first."""


def erf_polynomial(b: Builder, x: ir.Value) -> ir.Value:
    """erf(x) = sign(x) * (1 - (a1 t + ... + a5 t^5) exp(-x*x)), t = 1 / (1 + p|x|).

    The absolute error of the formula is at most 1.5e-7; near 0 the relative error is therefore large.
    """
    one, magnitude = b.scalar(1, x), b.Abs(x)
    t = b.Div(one, b.Add(one, b.Mul(magnitude, b.scalar(P, x))))
    tail = b.Mul(t, b.scalar(COEFFICIENTS[0], x))
    for coefficient in COEFFICIENTS[1:]:
        tail = b.Mul(b.Add(tail, b.scalar(coefficient, x)), t)
    gauss = b.Exp(b.Neg(b.Mul(x, x)))
    return b.Mul(b.Sign(x), b.Sub(one, b.Mul(tail, gauss)))


def _build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Narrow floats compute in float32 and round once: their constants alone would cost more than the formula."""
    x = required(node, 0)
    dtype = b.dtype_of(x)
    wide = dtype if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    return [b.cast(erf_polynomial(b, b.cast(x, wide)), dtype)]


def _applies(node: ir.Node, opset: int) -> str | None:
    dtype = required(node, 0).dtype
    return None if dtype is not None and dtype.is_floating_point() else "the operand is not known to be floating point"


DECOMPOSITIONS = (
    Decomposition(
        "erf_polynomial",
        "Erf",
        _build,
        Contract("tolerance", 5e-7, "formula 7.1.26 is within 1.5e-7 of erf; the rest is float32 rounding"),
        examples("Erf", case("matrix", Run((3, 5))), dtypes=(ir.DataType.FLOAT, ir.DataType.FLOAT16)),
        _applies,
    ),
)
