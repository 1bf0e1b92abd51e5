"""ReduceMax and ReduceMin over one axis by TopK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract
from porting_passes.decompose_reduction import reduction_axes
from porting_passes.decomposition import Case, Decomposition, Run, examples
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, required

_CONTRACT = Contract(
    "ulp", 1, "equal but for the sign of a zero; an extremum over NaN is not specified", nonfinite=False
)


def _applies(node: ir.Node, opset: int) -> str | None:
    axes = reduction_axes(node)
    if isinstance(axes, str):
        return axes
    if len(axes) != 1:
        return "it does not reduce exactly one axis"
    return "the axis is empty" if (dims_of(required(node, 0)) or ())[axes[0]] == 0 else None


def _build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """The first of the sorted values."""
    axes = reduction_axes(node)
    assert not isinstance(axes, str), axes
    options = {"axis": axes[0], "largest": int(node.op_type == "ReduceMax"), "sorted": 1}
    values = b.emit("TopK", [required(node, 0), b.ints([1])], options, outputs=2)[0]
    return [values if attribute(node, "keepdims", 1) else b.squeeze(values, axes)]


DECOMPOSITIONS = tuple(
    Decomposition(
        f"{name}_by_top_k",
        op_type,
        _build,
        _CONTRACT,
        examples(
            op_type,
            Case("axes attribute", (Run((3, 5, 2)),), {"axes": [-2], "keepdims": 0}, opsets=(11, 13)),
            Case("axes input", (Run((3, 5, 2)), np.array([1], np.int64))),
            Case("all axes", (Run((3, 5)),), applies=False, opsets=(18,)),
            dtypes=(ir.DataType.FLOAT,),
        ),
        _applies,
    )
    for name, op_type in (("reduce_max", "ReduceMax"), ("reduce_min", "ReduceMin"))
)
