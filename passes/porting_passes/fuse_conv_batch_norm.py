"""Conv, ConvTranspose or Gemm, BatchNormalization  ->  the first alone."""

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


def _pattern(op_type: str, bias: bool) -> Callable[..., Any]:
    if bias:
        return lambda op, x, w, bias, scale, offset, mean, variance: op.BatchNormalization(
            getattr(op, op_type)(x, w, bias, _outputs=["conv"]), scale, offset, mean, variance, _outputs=["y"]
        )
    return lambda op, x, w, scale, offset, mean, variance: op.BatchNormalization(
        getattr(op, op_type)(x, w, _outputs=["conv"]), scale, offset, mean, variance, _outputs=["y"]
    )


def _scaled(node: ir.Node, weight: np.ndarray[Any, Any], factor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The weight with every output channel multiplied by its factor; where these stand depends on the operator."""
    if node.op_type == "Gemm":
        return np.asarray(weight * (factor[:, None] if node.attributes.get_int("transB", 0) else factor))
    if node.op_type == "Conv":
        return np.asarray(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
    group = node.attributes.get_int("group", 1) or 1
    parts = weight.reshape(group, -1, *weight.shape[1:])
    scaled = parts * factor.reshape(group, 1, -1, *[1] * (weight.ndim - 2))
    return np.asarray(scaled.reshape(weight.shape))


def _condition(context: Any, w: ir.Value, conv: ir.Value, y: ir.Value, bias: ir.Value | None = None, **_: Any) -> bool:
    node = y.producer()
    assert node is not None
    if node.attributes.get_int("training_mode", 0) or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return False
    parameters = _parameters(node)
    if constant_of(w) is None or (bias is not None and constant_of(bias) is None) or parameters is None:
        return False
    added = constant_of(bias)
    if added is not None and tuple(added.shape.numpy()) != parameters[0].shape:
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
    before = np.zeros(1) if tensor is None else tensor.numpy().astype(np.float64)
    before = before * producer.attributes.get_float("beta", 1.0)
    dtype = weight.dtype.numpy()
    with np.errstate(over="ignore"):
        new_weight = _scaled(producer, old, factor).astype(dtype)
        new_bias = ((before - mean) * factor + offset).astype(dtype)
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return None
    attributes = {name: value for name, value in producer.attributes.items() if name != "beta"}
    folded = op.constant(new_weight, f"{w.name}/folded"), op.constant(new_bias, f"{w.name}/bias")
    return getattr(op, producer.op_type)(x, *folded, **attributes)


_FORMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    "Conv": ((8, 4, 3, 3), (8, 1, 3, 3), {"pads": [1, 1, 1, 1]}, {"group": 4, "pads": [1, 1, 1, 1]}),
    "ConvTranspose": ((4, 8, 3, 3), (4, 4, 3, 3), {"pads": [1, 1, 1, 1]}, {"group": 2, "pads": [1, 1, 1, 1]}),
    "Gemm": ((5, 8), (8, 5), {"beta": 0.5, "alpha": 2.0}, {"transB": 1}),
}
"""Weights and attributes of two examples of each operator: a plain one; groups, or a transposed weight."""


def _examples(op_type: str, bias: bool) -> Callable[[np.random.Generator], Iterable[Example]]:
    plain, special, options, others = _FORMS[op_type]

    def make(rng: np.random.Generator) -> Iterable[Example]:
        for name, has_bias, shape, attributes, training in (
            ("plain", bias, plain, options, 0),
            ("special", bias, special, others, 0),
            ("training-mode", bias, plain, options, 1),
            ("other-form", not bias, plain, options, 0),
        ):
            applies = has_bias == bias and not training
            model = _example(rng, op_type, has_bias, shape, attributes, training)
            yield Example(name, model, applies, dtypes=(ir.DataType.FLOAT,))

    return make


def _example(
    rng: np.random.Generator,
    op_type: str,
    bias: bool,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    training: int,
) -> ir.Model:
    def constant(array: np.ndarray[Any, Any], name: str) -> ir.Value:
        tensor = ir.tensor(array.astype(np.float32), name=name)
        return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)

    extents = ([2, 5], [2, 8]) if op_type == "Gemm" else ([2, 4, 6, 5], [2, 8, 6, 5])
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(extents[0]))
    weights = [constant(rng.standard_normal(shape), "w")]
    if bias:
        weights.append(constant(rng.standard_normal(8), "b"))
    statistics = [
        constant(rng.standard_normal(8), "scale"),
        constant(rng.standard_normal(8), "offset"),
        constant(rng.standard_normal(8), "mean"),
        constant(rng.uniform(0.1, 2, 8), "variance"),
    ]
    conv = ir.node(op_type, [x, *weights], attributes)
    options = {"epsilon": 1e-3, "training_mode": training}
    bn = ir.node("BatchNormalization", [conv.outputs[0], *statistics], options, num_outputs=3 if training else 1)
    conv.outputs[0].name = "h"
    for index, value in enumerate(bn.outputs):
        value.name = f"y{index}" if index else "y"
    bn.outputs[0].type, bn.outputs[0].shape = x.type, ir.Shape(extents[1])
    graph = ir.Graph(
        [x],
        [bn.outputs[0]],
        nodes=[conv, bn],
        initializers=[*weights, *statistics],
        opset_imports={"": 15},
        name="conv_batch_norm",
    )
    return ir.Model(graph, ir_version=10)


REWRITES = tuple(
    Rewrite(
        f"fuse_{name}_bias_batch_norm" if bias else f"fuse_{name}_batch_norm",
        _pattern(op_type, bias),
        _replacement,
        _CONTRACT,
        _examples(op_type, bias),
        _condition,
    )
    for name, op_type in (("conv", "Conv"), ("conv_transpose", "ConvTranspose"), ("gemm", "Gemm"))
    for bias in (False, True)
)


class FuseConvBatchNorm(RewritePass):
    """Fold the affine map of an inference-mode BatchNormalization into the convolution or product before it.

    1. All parameters are constants and nothing else reads what they act on: fold, in float64, rounding once.
    2. A bias that is not one element a channel, training mode, statistics that are read, weights computed at run
       time, a variance below -epsilon, a folded weight or bias beyond its dtype: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
