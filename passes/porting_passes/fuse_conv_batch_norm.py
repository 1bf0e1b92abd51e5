"""Conv, BatchNormalization  ->  Conv."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import constant_of
from porting_passes.contract import Contract, Example
from porting_passes.rewrite import Accepts, Rewrite, RewritePass

_CONTRACT = Contract(
    "tolerance",
    2e-6,
    "one rounding of the folded weight instead of two roundings of the result; sums of up to 10^3 products",
    nonfinite=False,
)


def _parameters(bn: ir.Node) -> list[np.ndarray[Any, Any]] | None:
    tensors = [constant_of(value) for value in bn.inputs[1:5]]
    if any(t is None for t in tensors):
        return None
    return [t.numpy().astype(np.float64) for t in tensors if t is not None]


def _pattern(op: Any, x: Any, w: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> Any:
    conv = op.Conv(x, w, _outputs=["conv"])
    return op.BatchNormalization(conv, scale, offset, mean, variance, _outputs=["y"])


def _pattern_with_bias(op: Any, x: Any, w: Any, bias: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> Any:
    conv = op.Conv(x, w, bias, _outputs=["conv"])
    return op.BatchNormalization(conv, scale, offset, mean, variance, _outputs=["y"])


def _condition(context: Any, w: ir.Value, conv: ir.Value, y: ir.Value, bias: ir.Value | None = None, **_: Any) -> bool:
    node = y.producer()
    assert node is not None
    if node.attributes.get_int("training_mode", 0) or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return False
    parameters = _parameters(node)
    if constant_of(w) is None or (bias is not None and constant_of(bias) is None) or parameters is None:
        return False
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return all(np.isfinite(p).all() for p in parameters) and bool((parameters[3] + epsilon > 0).all())


def _replacement(
    op: Any, x: ir.Value, w: ir.Value, conv: ir.Value, y: ir.Value, bias: ir.Value | None = None, **_: Any
) -> Any:
    """Weight and bias scaled in float64 and rounded once."""
    node, producer = y.producer(), conv.producer()
    weight = constant_of(w)
    assert node is not None
    assert producer is not None
    assert weight is not None
    parameters = _parameters(node)
    assert parameters is not None
    scale, offset, mean, variance = parameters
    factor = scale / np.sqrt(variance + np.float64(np.float32(node.attributes.get_float("epsilon", 1e-5))))
    old = weight.numpy().astype(np.float64)
    tensor = constant_of(bias)
    before = 0.0 if tensor is None else tensor.numpy().astype(np.float64)
    dtype = weight.dtype.numpy()
    with np.errstate(over="ignore"):
        new_weight = (old * factor.reshape(-1, *[1] * (old.ndim - 1))).astype(dtype)
        new_bias = ((before - mean) * factor + offset).astype(dtype)
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return None
    return op.Conv(
        x, op.constant(new_weight, f"{w.name}/folded"), op.constant(new_bias, f"{w.name}/bias"), **producer.attributes
    )


def _examples(bias: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    def make(rng: np.random.Generator) -> Iterable[Example]:
        for name, has_bias, group, training in (
            ("plain", bias, 1, 0),
            ("depthwise", bias, 4, 0),
            ("training-mode", bias, 1, 1),
            ("other-form", not bias, 1, 0),
        ):
            applies = has_bias == bias and not training
            yield Example(name, _example(rng, has_bias, group, training), applies, dtypes=(ir.DataType.FLOAT,))

    return make


def _example(rng: np.random.Generator, bias: bool, group: int, training: int) -> ir.Model:
    def constant(array: np.ndarray[Any, Any], name: str) -> ir.Value:
        tensor = ir.tensor(array.astype(np.float32), name=name)
        return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 4, 6, 5]))
    weights = [constant(rng.standard_normal((8, 4 // group, 3, 3)), "w")]
    if bias:
        weights.append(constant(rng.standard_normal(8), "b"))
    statistics = [
        constant(rng.standard_normal(8), "scale"),
        constant(rng.standard_normal(8), "offset"),
        constant(rng.standard_normal(8), "mean"),
        constant(rng.uniform(0.1, 2, 8), "variance"),
    ]
    conv = ir.node("Conv", [x, *weights], {"group": group, "pads": [1, 1, 1, 1]})
    attributes = {"epsilon": 1e-3, "training_mode": training}
    bn = ir.node("BatchNormalization", [conv.outputs[0], *statistics], attributes, num_outputs=3 if training else 1)
    conv.outputs[0].name = "h"
    for index, value in enumerate(bn.outputs):
        value.name = f"y{index}" if index else "y"
    bn.outputs[0].type, bn.outputs[0].shape = x.type, ir.Shape([2, 8, 6, 5])
    graph = ir.Graph(
        [x],
        [bn.outputs[0]],
        nodes=[conv, bn],
        initializers=[*weights, *statistics],
        opset_imports={"": 15},
        name="conv_batch_norm",
    )
    return ir.Model(graph, ir_version=10)


REWRITES = (
    Rewrite("fuse_conv_batch_norm", _pattern, _replacement, _CONTRACT, _examples(False), _condition),
    Rewrite("fuse_conv_bias_batch_norm", _pattern_with_bias, _replacement, _CONTRACT, _examples(True), _condition),
)


class FuseConvBatchNorm(RewritePass):
    """Fold the affine map of an inference-mode BatchNormalization into the convolution before it.

    1. All parameters are constants and nothing else reads the convolution: fold, in float64, rounding once.
    2. Training mode, statistics that are read, weights computed at run time, a variance below -epsilon, a folded
       weight or bias beyond its dtype: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
