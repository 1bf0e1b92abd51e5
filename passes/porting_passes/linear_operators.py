"""Conv, Gemm and MatMul seen alike: an activation contracted with a constant weight, plus perhaps a bias."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from porting_passes.constants import constant_of

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class Linear:
    """One node as alpha * (activation contracted with weight) + beta * bias.

    channel_axis: the axis of weight that indexes output channels. depthwise: a convolution with one input channel a
    group. bias: None where there is none.
    """

    node: ir.Node
    activation: ir.Value
    weight_value: ir.Value
    weight: ir.TensorProtocol
    channel_axis: int
    bias: ir.Value | None = None
    alpha: float = 1.0
    beta: float = 1.0
    depthwise: bool = False

    @property
    def channels(self) -> int:
        """Number of output channels."""
        size = self.weight.shape[self.channel_axis]
        assert isinstance(size, int)
        return size


def linear_of(node: ir.Node) -> Linear | str:
    """The node as a Linear, or why it has no int8 form: constant weights, float16/bfloat16/float32, known ranks."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        return f"{node.op_type} is not one of {', '.join(OPERATORS)}"
    activation, weight_value = node.inputs[0], node.inputs[1]
    if activation is None or weight_value is None:
        return "an operand is absent"
    weight = constant_of(weight_value)
    if weight is None:
        return (
            "the weight is computed at run time" if constant_of(activation) is None else "the constant is on the left"
        )
    if constant_of(activation) is not None:
        return "both operands are constant"
    if weight.dtype not in FLOATS:
        return f"the weight is {weight.dtype.name.lower()}, not float16, bfloat16 or float32"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Conv":
        return _conv(node, activation, weight_value, weight, bias)
    rank = None if activation.shape is None else len(activation.shape)
    if rank is None or rank < 2:
        return "the rank of the activation is not known" if rank is None else "the activation is a vector"
    if len(weight.shape) != 2:
        return f"the weight has rank {len(weight.shape)}, not 2"
    if node.op_type == "MatMul":
        return Linear(node, activation, weight_value, weight, channel_axis=1)
    if node.attributes.get_int("transA", 0):
        return "the activation is transposed (transA)"
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    if alpha == 0:
        return "alpha is 0"
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    return Linear(node, activation, weight_value, weight, axis, None if beta == 0 else bias, alpha, beta)


def _conv(
    node: ir.Node, activation: ir.Value, weight_value: ir.Value, weight: ir.TensorProtocol, bias: ir.Value | None
) -> Linear | str:
    rank = len(weight.shape)
    if not 3 <= rank <= 5:
        return f"a convolution over {rank - 2} axes"
    group = node.attributes.get_int("group", 1)
    depthwise = group > 1 and weight.shape[1] == 1
    return Linear(node, activation, weight_value, weight, 0, bias, depthwise=depthwise)
