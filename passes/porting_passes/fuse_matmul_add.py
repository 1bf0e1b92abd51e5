"""MatMul of a matrix by a constant matrix, Add of a constant vector  ->  Gemm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import constant_of
from porting_passes.contract import Contract, Example
from porting_passes.node_facts import rank, static_dims
from porting_passes.rewrite import Accepts, Rewrite, RewritePass


def _condition(context: Any, x: ir.Value, w: ir.Value, bias: ir.Value) -> bool:
    weight, vector = static_dims(w), static_dims(bias)
    if rank(x) != 2 or weight is None or len(weight) != 2 or vector is None or len(vector) != 1:
        return False
    known = constant_of(w) is not None and constant_of(bias) is not None
    return known and vector[0] in (1, weight[1]) and x.dtype is not None and x.dtype.is_floating_point()


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    def text(shape: str, result: str, add: str) -> str:
        return f"""<ir_version: 10, opset_import: ["": 13]> g (float{shape} x) => (float{result} y) {{
            m = MatMul(x, w) y = Add({add}) }}"""

    weights = {"w": rng.standard_normal((4, 5)).astype(np.float32), "b": rng.standard_normal(5).astype(np.float32)}
    yield Example.from_text("bias right", text("[3, 4]", "[3, 5]", "m, b"), **weights)
    yield Example.from_text("bias left", text("[3, 4]", "[3, 5]", "b, m"), **weights)
    yield Example.from_text("batch", text("[2, 3, 4]", "[2, 3, 5]", "m, b"), applies=False, **weights)


REWRITES = (
    Rewrite(
        "fuse_matmul_add",
        lambda op, x, w, bias: op.Add(op.MatMul(x, w), bias),
        lambda op, x, w, bias: op.Gemm(x, w, bias),
        Contract("tolerance", 2e-6, "the bias may enter the sum of products before it is rounded", nonfinite=False),
        _examples,
        _condition,
        commute=True,
    ),
)


class FuseMatmulAdd(RewritePass):
    """Spell a fully connected layer with its own operator.

    1. A matrix times a constant matrix, plus a constant vector as long as a row of the result, or of one element: fuse.
    2. Another rank, a weight or bias computed at run time, or a product that something else reads: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
