"""LayerNormalization and RMSNormalization by reductions, Sqrt and Div."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import FLOATS, Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import attribute, number, operand, rank, required, used

_SCALE = np.linspace(0.5, 1.5, 8, dtype=np.float32)
_BIAS = np.linspace(-1.0, 1.0, 8, dtype=np.float32)
_REASON = "sums in another order; the stock kernel takes the variance as mean(x*x) - mean(x)^2"


def _unknown_rank(node: ir.Node, opset: int) -> str | None:
    return "the rank of the input is unknown" if rank(node.inputs[0]) is None else None


def _stash(node: ir.Node) -> ir.DataType:
    return ir.DataType(attribute(node, "stash_type", 1))


def _wide(b: Builder, node: ir.Node) -> tuple[ir.Value, list[int]]:
    """The input in the dtype that the statistics are computed in (stash_type, but float64 stays), and the axes."""
    x = required(node, 0)
    dims = b.rank_of(x)
    axis = attribute(node, "axis", -1) % dims
    return (x if b.dtype_of(x) == ir.DataType.DOUBLE else b.cast(x, _stash(node))), list(range(axis, dims))


def _layer_norm(b: Builder, node: ir.Node) -> Sequence[ir.Value | None]:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias; the statistics are rounded last."""
    x, axes = _wide(b, node)
    mean = b.reduce("ReduceMean", x, axes)
    centred = b.Sub(x, mean)
    variance = b.reduce("ReduceMean", b.Mul(centred, centred), axes)
    deviation = b.Sqrt(b.Add(variance, b.scalar(number(node, "epsilon", 1e-5), x)))
    y = b.Mul(b.cast(b.Div(centred, deviation), b.dtype_of(required(node, 0))), required(node, 1))
    bias = operand(node, 2)
    results: list[ir.Value | None] = [y if bias is None else b.Add(y, bias), None, None]
    if len(node.outputs) > 1 and used(node.outputs[1]):
        results[1] = b.cast(mean, _stash(node))
    if len(node.outputs) > 2 and used(node.outputs[2]):
        results[2] = b.cast(b.Reciprocal(deviation), _stash(node))
    return results[: len(node.outputs)]


def _rms_norm(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    x, axes = _wide(b, node)
    power = b.reduce("ReduceMean", b.Mul(x, x), axes)
    root = b.Sqrt(b.Add(power, b.scalar(number(node, "epsilon", 1e-5), x)))
    return [b.Mul(b.cast(b.Div(x, root), b.dtype_of(required(node, 0))), required(node, 1))]


DECOMPOSITIONS = (
    Decomposition(
        "layer_norm_by_mean",
        "LayerNormalization",
        _layer_norm,
        Contract("tolerance", 2e-6, _REASON, nonfinite=False),
        examples(
            "LayerNormalization",
            case("last axis", Run((2, 3, 8)), _SCALE, _BIAS),
            case("no bias", Run((2, 8)), _SCALE, epsilon=1e-3),
            case("two axes", Run((2, 2, 8)), np.stack([_SCALE, _BIAS]), np.stack([_BIAS, _SCALE]), axis=1),
            Case("statistics", (Run((2, 8)), _SCALE, _BIAS), outputs=3, dtypes=(ir.DataType.FLOAT,)),
            Case(
                "float64 with float32 statistics",
                (Run((2, 8), ir.DataType.DOUBLE), _SCALE.astype(np.float64)),
                outputs=3,
                dtypes=(ir.DataType.FLOAT,),
            ),
        ),
        _unknown_rank,
    ),
    Decomposition(
        "rms_norm_by_mean",
        "RMSNormalization",
        _rms_norm,
        Contract("tolerance", 2e-6, "sums in another order", nonfinite=False),
        examples(
            "RMSNormalization",
            case("last axis", Run((2, 3, 8)), _SCALE),
            case("two axes", Run((2, 2, 8)), np.stack([_SCALE, _BIAS]), axis=1, epsilon=1e-3),
            dtypes=FLOATS,
        ),
        _unknown_rank,
    ),
)
