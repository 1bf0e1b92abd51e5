"""Swish, HardSwish, Mish and Softplus: smooth gates made of Sigmoid, Tanh, Exp and Log."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Decomposition, Run, case, examples
from porting_passes.node_facts import number, required

_X = case("matrix", Run((3, 5)))
_ONLY_FLOAT = (ir.DataType.FLOAT,)
"""The stock runtime expands Softplus to log(1 + exp(x)) in the other dtypes, which overflows early."""


def _swish(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, alpha = required(node, 0), number(node, "alpha", 1.0)
    inner = x if alpha == 1.0 else b.Mul(x, b.scalar(alpha, x))
    return [b.Mul(x, b.Sigmoid(inner))]


def _hard_swish(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Mul(x, b.HardSigmoid(x, alpha=1 / 6, beta=0.5))]


def _mish(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [b.Mul(x, b.Tanh(b.Softplus(x)))]


def _softplus(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Relu(x) + log(1 + exp(-|x|)): the plain log(1 + exp(x)) overflows from x = 89 (float32) or 12 (float16) on."""
    x = required(node, 0)
    return [b.Add(b.Relu(x), b.Log(b.Add(b.Exp(b.Neg(b.Abs(x))), b.scalar(1, x))))]


def _sigmoid_by_tanh(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    half = b.scalar(0.5, x)
    return [b.Add(b.Mul(b.Tanh(b.Mul(x, half)), half), half)]


def _sigmoid_by_exp(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    one = b.scalar(1, x)
    return [b.Div(one, b.Add(one, b.Exp(b.Neg(x))))]


def _tanh_by_sigmoid(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    two = b.scalar(2, x)
    return [b.Sub(b.Mul(b.Sigmoid(b.Mul(x, two)), two), b.scalar(1, x))]


DECOMPOSITIONS = (
    Decomposition(
        "swish_by_sigmoid",
        "Swish",
        _swish,
        Contract("tolerance", 1e-6, "Sigmoid and the product round separately"),
        examples("Swish", _X, case("alpha", Run((3, 5)), alpha=1.5)),
    ),
    Decomposition(
        "hard_swish_by_hard_sigmoid",
        "HardSwish",
        _hard_swish,
        Contract("tolerance", 1e-6, "1/6 is rounded before it is multiplied"),
        examples("HardSwish", _X),
    ),
    Decomposition(
        "mish_by_softplus",
        "Mish",
        _mish,
        Contract("tolerance", 1e-6, "Softplus, Tanh and the product round separately"),
        examples("Mish", _X),
    ),
    Decomposition(
        "softplus_by_log",
        "Softplus",
        _softplus,
        Contract("tolerance", 1e-6, "log(1 + t) loses the digits of a small t that log1p keeps: absolute error only"),
        examples("Softplus", _X, dtypes=_ONLY_FLOAT),
    ),
    Decomposition(
        "sigmoid_by_tanh",
        "Sigmoid",
        _sigmoid_by_tanh,
        Contract("tolerance", 1e-6, "absolute: for very negative x the true value is below one rounding of 0.5"),
        examples("Sigmoid", _X),
    ),
    Decomposition(
        "sigmoid_by_exp",
        "Sigmoid",
        _sigmoid_by_exp,
        Contract("tolerance", 1e-6, "three roundings; exp(-x) may overflow to infinity, which gives the right 0"),
        examples("Sigmoid", _X),
    ),
    Decomposition(
        "tanh_by_sigmoid",
        "Tanh",
        _tanh_by_sigmoid,
        Contract("tolerance", 1e-6, "absolute: near 0 the difference 2 sigmoid(2x) - 1 cancels"),
        examples("Tanh", _X),
    ),
)
