"""GroupNormalization, InstanceNormalization, BatchNormalization and LpNormalization by reductions and each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder, BuildError
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import constant_tensor, dims_of
from porting_passes.node_facts import (
    attribute,
    is_constant,
    number,
    only_first_output,
    rank,
    required,
    reshape_target,
)

_SUMS = Contract(
    "tolerance", 4e-6, "sums in another order; the stock kernel may scale and shift in one step", nonfinite=False
)


def _rank_unknown(node: ir.Node, opset: int) -> str | None:
    known = rank(node.inputs[0])
    return "the rank of the input is unknown" if known is None else None


def _per_channel(b: Builder, vector: ir.Value, dims: int) -> ir.Value:
    """A [C] vector shaped so that it broadcasts along axis 1 of a value of rank ``dims``."""
    return b.unsqueeze(vector, range(1, dims - 1)) if dims > 2 else vector


def _wide(b: Builder, x: ir.Value) -> ir.Value:
    """Statistics of narrow floats are taken in float32: their squares overflow float16 from 256 on."""
    return b.cast(x, ir.DataType.FLOAT) if b.dtype_of(x) in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) else x


def _standardized(b: Builder, x: ir.Value, axes: Sequence[int], epsilon: float) -> ir.Value:
    """(x - mean) / sqrt(variance + epsilon) over ``axes``, in the dtype of ``x``."""
    wide = _wide(b, x)
    centred = b.Sub(wide, b.reduce("ReduceMean", wide, axes))
    variance = b.reduce("ReduceMean", b.Mul(centred, centred), axes)
    return b.cast(b.Div(centred, b.Sqrt(b.Add(variance, b.scalar(epsilon, wide)))), b.dtype_of(x))


def _scaled(b: Builder, node: ir.Node, y: ir.Value) -> ir.Value:
    dims = b.rank_of(y)
    scaled = b.Mul(y, _per_channel(b, required(node, 1), dims))
    return b.Add(scaled, _per_channel(b, required(node, 2), dims))


def _instance_norm(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x = required(node, 0)
    return [_scaled(b, node, _standardized(b, x, range(2, b.rank_of(x)), number(node, "epsilon", 1e-5)))]


def _group_shape(node: ir.Node, opset: int) -> str | None:
    dims = dims_of(required(node, 0))
    if dims is None or len(dims) < 3:
        return "the input is not known to have spatial dimensions"
    if not isinstance(dims[1], int):
        return "the number of channels is unknown"
    if attribute(node, "stash_type", 1) == ir.DataType.DOUBLE:
        return "the statistics are float64"
    target = reshape_target(required(node, 0), dims)
    return target if isinstance(target, str) else None


def _grouped(b: Builder, node: ir.Node, normalize: str) -> Sequence[ir.Value]:
    """[N, C, ...] -> [N, groups, -1], normalize each row, and back; scale and bias per group (18) or channel (21)."""
    x, groups, epsilon = required(node, 0), attribute(node, "num_groups"), number(node, "epsilon", 1e-5)
    target = reshape_target(x, dims_of(x) or ())
    if isinstance(target, str):
        raise BuildError(target)
    rows = b.reshape(x, [0, groups, -1])
    if normalize == "InstanceNormalization":
        one = b.constant(np.ones(groups), b.dtype_of(x))
        rows = b.InstanceNormalization(rows, one, b.constant(np.zeros(groups), b.dtype_of(x)), epsilon=epsilon)
    else:
        rows = _standardized(b, rows, [2], epsilon)
    if b.opset < 21:
        return [b.reshape(_scaled(b, node, rows), target)]
    return [_scaled(b, node, b.reshape(rows, target))]


def _group_by_instance_norm(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return _grouped(b, node, "InstanceNormalization")


def _group_by_mean(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    return _grouped(b, node, "ReduceMean")


def _inference_batch_norm(node: ir.Node, opset: int) -> str | None:
    if attribute(node, "training_mode", 0):
        return "training_mode is set"
    if not all(is_constant(v) for v in node.inputs[1:5]):
        return "scale, bias, mean and variance are not constants"
    return only_first_output(node) or _rank_unknown(node, opset)


def _batch_norm(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """x * a + c, with a = scale / sqrt(variance + epsilon) and c = bias - mean * a folded in float64."""
    x = required(node, 0)
    tensors = [constant_tensor(required(node, i)) for i in range(1, 5)]
    scale, bias, mean, variance = (t.numpy().astype(np.float64) for t in tensors if t is not None)
    factor = scale / np.sqrt(variance + number(node, "epsilon", 1e-5))
    dims, dtype = b.rank_of(x), b.dtype_of(x)
    shape = (-1,) + (1,) * (dims - 2)
    scaled = b.Mul(x, b.constant(factor.reshape(shape), dtype))
    return [b.Add(scaled, b.constant((bias - mean * factor).reshape(shape), dtype))]


def _lp_norm(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """x / norm, where a norm below the smallest normal number counts as that number, so that 0 / 0 gives 0."""
    x, dtype = required(node, 0), b.dtype_of(required(node, 0))
    axes, wide = [attribute(node, "axis", -1)], _wide(b, x)
    if attribute(node, "p", 2) == 1:
        norm = b.reduce("ReduceSum", b.Abs(wide), axes)
    else:
        norm = b.Sqrt(b.reduce("ReduceSum", b.Mul(wide, wide), axes))
    tiny = 1e-300 if dtype == ir.DataType.DOUBLE else float(np.finfo(np.float32).tiny)
    return [b.cast(b.Div(wide, b.Clip(norm, b.scalar(tiny, wide))), dtype)]


def _vectors(channels: int) -> list[np.ndarray]:
    ramp = np.linspace(0.5, 1.5, channels, dtype=np.float32)
    return [ramp, ramp - 1, ramp * 0.5, ramp * 2]


_GROUPS = (
    Case("per group", (Run((2, 4, 3, 3)), *_vectors(2)[:2]), {"num_groups": 2}, opsets=(18,)),
    Case("per channel", (Run((2, 4, 3, 3)), *_vectors(4)[:2]), {"num_groups": 2}, opsets=(24,)),
)
_FLOAT_ONLY = (ir.DataType.FLOAT,)

DECOMPOSITIONS = (
    Decomposition(
        "instance_norm_by_mean",
        "InstanceNormalization",
        _instance_norm,
        _SUMS,
        examples("InstanceNormalization", case("image", Run((2, 4, 3, 3)), *_vectors(4)[:2]), dtypes=_FLOAT_ONLY),
        _rank_unknown,
    ),
    Decomposition(
        "group_norm_by_instance_norm",
        "GroupNormalization",
        _group_by_instance_norm,
        _SUMS,
        examples("GroupNormalization", *_GROUPS, dtypes=_FLOAT_ONLY),
        _group_shape,
    ),
    Decomposition(
        "group_norm_by_mean",
        "GroupNormalization",
        _group_by_mean,
        _SUMS,
        examples("GroupNormalization", *_GROUPS, dtypes=_FLOAT_ONLY),
        _group_shape,
    ),
    Decomposition(
        "batch_norm_by_mul_add",
        "BatchNormalization",
        _batch_norm,
        Contract("tolerance", 1e-6, "one multiplication and addition where the stock kernel normalizes, then scales"),
        examples("BatchNormalization", case("image", Run((2, 4, 3, 3)), *_vectors(4))),
        _inference_batch_norm,
    ),
    Decomposition(
        "lp_norm_by_sum",
        "LpNormalization",
        _lp_norm,
        Contract("tolerance", 2e-6, "sums in another order; squares may overflow", nonfinite=False),
        examples(
            "LpNormalization",
            case("two", Run((3, 5))),
            case("one", Run((3, 5)), p=1, axis=0),
            dtypes=_FLOAT_ONLY,
        ),
        _rank_unknown,
    ),
)
