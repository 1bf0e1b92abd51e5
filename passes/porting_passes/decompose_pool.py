"""AveragePool and MaxPool: 1-D as 2-D, padding made explicit, padding that counts moved into a Pad."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decompose_conv import explicit_pads, is_one_dimensional, widened_attributes
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import attribute, only_first_output, required

_MEAN = Contract("tolerance", 1e-6, "the same sum in another order", nonfinite=False)
_MAX = Contract("ulp", 1, "equal but for the sign of a zero; a maximum over NaN is not specified", nonfinite=False)


def _applies_1d(node: ir.Node, opset: int) -> str | None:
    return is_one_dimensional(node, opset) or only_first_output(node)


def _to_2d(b: Builder, node: ir.Node) -> Sequence[ir.Value | None]:
    pooled = b.emit(node.op_type, [b.unsqueeze(required(node, 0), [2])], widened_attributes(node))[0]
    return [b.squeeze(pooled, [2]), *([None] * (len(node.outputs) - 1))]


def _has_auto_pad(node: ir.Node, opset: int) -> str | None:
    if attribute(node, "auto_pad", "NOTSET") == "NOTSET":
        return "auto_pad is not set"
    pads = explicit_pads(node)
    return pads if isinstance(pads, str) else only_first_output(node)


def _make_explicit(b: Builder, node: ir.Node) -> Sequence[ir.Value | None]:
    attributes = {name: attr.value for name, attr in node.attributes.items() if name != "auto_pad"}
    pooled = b.emit(node.op_type, [required(node, 0)], {**attributes, "pads": explicit_pads(node)})[0]
    return [pooled, *([None] * (len(node.outputs) - 1))]


def _counts_padding(node: ir.Node, opset: int) -> str | None:
    if not attribute(node, "count_include_pad", 0):
        return "count_include_pad is not set"
    if attribute(node, "ceil_mode", 0):
        return "ceil_mode may add windows beyond the padding"
    pads = explicit_pads(node)
    return pads if isinstance(pads, str) else (None if any(pads) else "it does not pad")


def _pad_first(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    x, pads = required(node, 0), explicit_pads(node)
    assert not isinstance(pads, str), pads
    half = len(pads) // 2
    padded = b.Pad(x, b.ints([0, 0, *pads[:half], 0, 0, *pads[half:]]), b.scalar(0, x))
    dropped = ("auto_pad", "pads", "count_include_pad")
    attributes = {name: attr.value for name, attr in node.attributes.items() if name not in dropped}
    return [b.emit("AveragePool", [padded], attributes)[0]]


_FLOAT = (ir.DataType.FLOAT,)
_LINE = case("line", Run((2, 3, 9)), kernel_shape=[3], strides=[2], pads=[1, 0])
_SAME = case("same", Run((1, 2, 6, 7)), kernel_shape=[3, 2], strides=[2, 1], auto_pad="SAME_UPPER")

DECOMPOSITIONS = (
    *(
        Decomposition(
            f"{name}_pool_1d_as_2d", op_type, _to_2d, contract, examples(op_type, _LINE, dtypes=_FLOAT), _applies_1d
        )
        for name, op_type, contract in (("average", "AveragePool", _MEAN), ("max", "MaxPool", _MAX))
    ),
    *(
        Decomposition(
            f"{name}_pool_explicit_pads",
            op_type,
            _make_explicit,
            contract,
            examples(op_type, _SAME, dtypes=_FLOAT),
            _has_auto_pad,
        )
        for name, op_type, contract in (("average", "AveragePool", _MEAN), ("max", "MaxPool", _MAX))
    ),
    Decomposition(
        "average_pool_pad_first",
        "AveragePool",
        _pad_first,
        _MEAN,
        examples(
            "AveragePool",
            case("counted", Run((1, 2, 6, 7)), kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1),
            Case("not counted", (Run((1, 2, 6)),), {"kernel_shape": [3], "pads": [1, 1]}, applies=False, opsets=(13,)),
            dtypes=_FLOAT,
        ),
        _counts_padding,
    ),
)
