"""Gelu, exact and tanh form, by Erf or Tanh."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Decomposition, Run, case, examples
from porting_passes.node_facts import attribute, required


def _exact_form(node: ir.Node, opset: int) -> str | None:
    return None if attribute(node, "approximate", "none") == "none" else "approximate is tanh"


def _tanh_form(node: ir.Node, opset: int) -> str | None:
    return None if attribute(node, "approximate", "none") == "tanh" else "approximate is none"


def _by_erf(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """0.5 x (1 + erf(x / sqrt(2)))."""
    x = required(node, 0)
    phi = b.Add(b.Erf(b.Mul(x, b.scalar(math.sqrt(0.5), x))), b.scalar(1, x))
    return [b.Mul(b.Mul(x, b.scalar(0.5, x)), phi)]


def _by_tanh(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the cubic as x (1 + 0.044715 x^2)."""
    x = required(node, 0)
    cubic = b.Mul(x, b.Add(b.Mul(b.Mul(x, x), b.scalar(0.044715, x)), b.scalar(1, x)))
    phi = b.Add(b.Tanh(b.Mul(cubic, b.scalar(math.sqrt(2 / math.pi), x))), b.scalar(1, x))
    return [b.Mul(b.Mul(x, b.scalar(0.5, x)), phi)]


DECOMPOSITIONS = (
    Decomposition(
        "gelu_by_erf",
        "Gelu",
        _by_erf,
        Contract("tolerance", 1e-6, "five roundings; Erf of the runtime is itself within 2 units in the last place"),
        examples("Gelu", case("erf", Run((3, 5)))),
        _exact_form,
    ),
    Decomposition(
        "gelu_by_tanh",
        "Gelu",
        _by_tanh,
        Contract("tolerance", 1e-6, "six roundings; Tanh of the runtime is itself an approximation"),
        examples(
            "Gelu",
            case("tanh", Run((3, 5)), approximate="tanh"),
            dtypes=(ir.DataType.FLOAT, ir.DataType.FLOAT16),  # float64 runs with float32 constants in the stock runtime
        ),
        _tanh_form,
    ),
)
