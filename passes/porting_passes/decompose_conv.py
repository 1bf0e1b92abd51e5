"""Conv and ConvTranspose: 1-D as 2-D, padding made explicit or moved into a Pad, attributes written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.inference import constant_tensor, dims_of
from porting_passes.node_facts import attribute, operand, rank, required, static_dims

_SUMS = Contract("tolerance", 2e-6, "the same products summed in another order", nonfinite=False)
_LISTS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1}
"""Attributes with one entry a spatial axis, and the entry of the axis of extent 1 that is put in front."""


def widened_attributes(node: ir.Node) -> dict[str, object]:
    """The attributes of a 1-D convolution or pool for the same one over [1, length]."""
    result: dict[str, object] = {}
    for name, attr in node.attributes.items():
        if name in _LISTS:
            result[name] = [_LISTS[name], *attr.value]
        elif name == "pads":
            result[name] = [0, attr.value[0], 0, attr.value[1]]
        else:
            result[name] = attr.value
    return result


def is_one_dimensional(node: ir.Node, opset: int) -> str | None:
    """None for an input of shape [N, C, L]."""
    return None if rank(node.inputs[0]) == 3 else "the input is not known to be [N, C, L]"


def _applies_1d(node: ir.Node, opset: int) -> str | None:
    return is_one_dimensional(node, opset) or (None if rank(node.inputs[1]) == 3 else "the weight is not 3-D")


def _unsqueezed(b: Builder, weight: ir.Value) -> ir.Value:
    """[M, C, k] as [M, C, 1, k]; a constant stays one."""
    tensor = constant_tensor(weight)
    if tensor is None:
        return b.unsqueeze(weight, [2])
    out, channels, length = tensor.shape.numpy()
    return b.derived(tensor, [out, channels, 1, length], lambda array: np.expand_dims(array, 2))


def _to_2d(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    inputs = [b.unsqueeze(required(node, 0), [2]), _unsqueezed(b, required(node, 1)), operand(node, 2)]
    return [b.squeeze(b.emit(node.op_type, inputs, widened_attributes(node))[0], [2])]


def explicit_pads(node: ir.Node) -> list[int] | str:
    """The pads that auto_pad stands for, begins first, or why they cannot be told (Conv and pools)."""
    mode = attribute(node, "auto_pad", "NOTSET")
    dims = dims_of(required(node, 0))
    if dims is None:
        return "the rank of the input is unknown"
    spatial = len(dims) - 2
    if mode == "VALID":
        return [0] * (2 * spatial)
    if mode == "NOTSET":
        return list(attribute(node, "pads", [0] * (2 * spatial)))
    kernel = attribute(node, "kernel_shape") or (dims_of(required(node, 1)) or ())[2:]
    if len(kernel) != spatial or not all(isinstance(k, int) for k in kernel):
        return "an extent of the kernel is unknown"
    strides = attribute(node, "strides", [1] * spatial)
    dilations = attribute(node, "dilations", [1] * spatial)
    begins, ends = [], []
    for extent, k, stride, dilation in zip(dims[2:], kernel, strides, dilations, strict=True):
        if not isinstance(extent, int):
            return "a spatial extent is unknown"
        total = max((math.ceil(extent / stride) - 1) * stride + (k - 1) * dilation + 1 - extent, 0)
        small = total // 2
        begins.append(small if mode == "SAME_UPPER" else total - small)
        ends.append(total - begins[-1])
    return begins + ends


def _has_auto_pad(node: ir.Node, opset: int) -> str | None:
    if attribute(node, "auto_pad", "NOTSET") == "NOTSET":
        return "auto_pad is not set"
    pads = explicit_pads(node)
    return pads if isinstance(pads, str) else None


def _make_explicit(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    attributes = {name: attr.value for name, attr in node.attributes.items() if name != "auto_pad"}
    return [b.emit(node.op_type, list(node.inputs), {**attributes, "pads": explicit_pads(node)})[0]]


def _is_padded(node: ir.Node, opset: int) -> str | None:
    pads = explicit_pads(node)
    return pads if isinstance(pads, str) else (None if any(pads) else "it does not pad")


def _pad_first(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, pads = required(node, 0), explicit_pads(node)
    assert not isinstance(pads, str), pads
    half = len(pads) // 2
    padded = b.Pad(x, b.ints([0, 0, *pads[:half], 0, 0, *pads[half:]]), b.scalar(0, x))
    attributes = {name: attr.value for name, attr in node.attributes.items() if name not in ("auto_pad", "pads")}
    return [b.emit("Conv", [padded, *node.inputs[1:]], attributes)[0]]


def _not_written_out(node: ir.Node, opset: int) -> str | None:
    if "kernel_shape" in node.attributes:
        return "kernel_shape is given"
    dims = static_dims(node.inputs[1])
    return None if dims is not None and len(dims) > 2 else "the extents of the weight are unknown"


def _write_out(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """Every attribute of an extent a spatial axis spelled out; some surfaces do not know the defaults."""
    kernel = (static_dims(node.inputs[1]) or ())[2:]
    ones = [1] * len(kernel)
    attributes: dict[str, Any] = {"kernel_shape": list(kernel), "strides": ones, "dilations": ones}
    if attribute(node, "auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in node.attributes:
        attributes["pads"] = [0] * (2 * len(kernel))
    given = {name: attr.value for name, attr in node.attributes.items()}
    return [b.emit(node.op_type, list(node.inputs), {**attributes, **given})[0]]


def _weight(*shape: int) -> np.ndarray:
    return np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)


_LINE = case("line", Run((2, 3, 9)), _weight(4, 3, 3), _weight(4), strides=[2], pads=[1, 0])
_FLOAT = (ir.DataType.FLOAT,)

DECOMPOSITIONS = (
    Decomposition(
        "conv_1d_as_2d",
        "Conv",
        _to_2d,
        _SUMS,
        examples(
            "Conv", _LINE, case("dilated", Run((2, 3, 9)), _weight(3, 1, 3), group=3, dilations=[2]), dtypes=_FLOAT
        ),
        _applies_1d,
    ),
    Decomposition(
        "conv_transpose_1d_as_2d",
        "ConvTranspose",
        _to_2d,
        _SUMS,
        examples(
            "ConvTranspose",
            case("line", Run((2, 3, 5)), _weight(3, 4, 3), _weight(4), strides=[2], pads=[1, 0], output_padding=[1]),
            dtypes=_FLOAT,
        ),
        _applies_1d,
    ),
    Decomposition(
        "conv_explicit_pads",
        "Conv",
        _make_explicit,
        _SUMS,
        examples(
            "Conv",
            case("same upper", Run((1, 2, 6, 7)), _weight(3, 2, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
            case("same lower", Run((1, 2, 6, 7)), _weight(3, 2, 4, 2), auto_pad="SAME_LOWER"),
            case("valid", Run((1, 2, 6, 7)), _weight(3, 2, 3, 2), auto_pad="VALID"),
            Case(
                "kernel of unknown extents",
                (Run((1, 2, 6, 7)), Run((3, 2, "k", "l"))),
                {"auto_pad": "SAME_UPPER"},
                applies=False,
                opsets=(13,),
            ),
            Case("explicit", (Run((1, 2, 6)), _weight(3, 2, 3)), {"pads": [1, 1]}, applies=False, opsets=(13,)),
            dtypes=_FLOAT,
        ),
        _has_auto_pad,
    ),
    Decomposition(
        "conv_pad_first",
        "Conv",
        _pad_first,
        _SUMS,
        examples(
            "Conv",
            case("uneven", Run((1, 2, 6, 7)), _weight(3, 2, 3, 2), pads=[1, 0, 2, 1]),
            Case("unpadded", (Run((1, 2, 6)), _weight(3, 2, 3)), applies=False, opsets=(13,)),
            dtypes=_FLOAT,
        ),
        _is_padded,
    ),
    Decomposition(
        "conv_written_out",
        "Conv",
        _write_out,
        Contract("exact"),
        examples(
            "Conv",
            case("bare", Run((1, 2, 6, 7)), _weight(3, 2, 3, 2), strides=[2, 1]),
            Case("written", (Run((1, 2, 6)), _weight(2, 2, 3)), {"kernel_shape": [3]}, applies=False, opsets=(13,)),
            dtypes=_FLOAT,
        ),
        _not_written_out,
    ),
    Decomposition(
        "conv_transpose_written_out",
        "ConvTranspose",
        _write_out,
        Contract("exact"),
        examples("ConvTranspose", case("bare", Run((1, 2, 6, 7)), _weight(2, 3, 3, 2)), dtypes=_FLOAT),
        _not_written_out,
    ),
)
