"""Rows weighted, put back in the order of tokens and added up  ->  porting.MoeCombine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import ints_of
from porting_passes.contract import Contract, Example
from porting_passes.decompose_reduction import reduction_axes
from porting_passes.node_facts import attribute, rank
from porting_passes.pattern_facts import has_dtype, number_of
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract("tolerance", 2e-6, "the rows of a token add up in another order", nonfinite=False)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the sum over the slots of each token up to the rows, their weights and the dispatch that ordered them."""
    trail.require(attribute(node, "keepdims", 1) == 0 and reduction_axes(node, 3) == [1])
    slots_apart = trail.up(node.inputs[0], "Reshape")
    gather = trail.up(slots_apart.inputs[0], "Gather")
    trail.require(attribute(gather, "axis", 0) == 0 and rank(gather.inputs[0]) == 2)
    index = _inverted(trail, gather.inputs[1])
    dispatch = trail.peek(index, "MoeDispatch", domain="porting")
    trail.require(dispatch is not None and index is dispatch.outputs[2])

    product = trail.up(gather.inputs[0], "Mul")
    column, rows = trail.operand(product, "Unsqueeze")
    trail.require(ints_of(column.inputs[1]) in ([1], [-1]))
    ordered = trail.up(column.inputs[0], "Gather")
    trail.require(ordered.inputs[1] is index and attribute(ordered, "axis", 0) == 0 and rank(ordered.inputs[0]) == 1)
    weights = trail.up(ordered.inputs[0], "Reshape").inputs[0]
    trail.require(rank(weights) == 2 and has_dtype(rows, *_DTYPES) and has_dtype(weights, rows.dtype or _DTYPES[0]))
    assert weights is not None
    assert weights.shape is not None
    apart, slots = slots_apart.outputs[0].shape, weights.shape[1]
    trail.require(apart is not None and len(apart) == 3 and isinstance(slots, int) and apart[1] == slots)
    return {"rows": rows, "index": index, "weights": weights}


def _inverted(trail: Trail, value: ir.Value | None) -> ir.Value | None:
    """The permutation of which ``value`` is the inverse: its places, written where it says. What was there is gone."""
    scatter = trail.up(value, "ScatterElements")
    index = scatter.inputs[1]
    trail.require(attribute(scatter, "reduction", "none") == "none" and rank(index) == 1)
    if trail.peek(scatter.inputs[0], "ConstantOfShape") is not None:
        filled = trail.up(scatter.inputs[0], "ConstantOfShape", shared=True)
        trail.through(filled.inputs[0], "Shape", shared=True)
    places = trail.up(scatter.inputs[2], "Range", shared=True)
    trail.require(number_of(places.inputs[0]) == 0 and number_of(places.inputs[2]) == 1)
    return index


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    weights = {
        "last": np.array([-1], np.int64),
        "one": np.array([1], np.int64),
        "zero": np.array(0, np.int64),
        "step": np.array(1, np.int64),
        "count": np.array(10, np.int64),
        "apart": np.array([-1, 2, 4], np.int64),
    }
    ids = np.array([[0, 2], [2, 0], [2, 1], [1, 2], [0, 2]])

    def one(name: str, body: str, applies: bool = True) -> Example:
        text = f"""<ir_version: 10, opset_import: ["": 20, "porting": 1]>
            g (float[5, 4] x, int64[5, 2] ids, float[5, 2] w) => (float[5, 4] y)
            <float[10, 4] r, int64[10] i, float[10, 4] m, float[10] f, float[5, 2, 4] a, float[10, 1] u, int64[3] o> {{
            r, o, i = porting.MoeDispatch<experts = 3>(x, ids) f = Reshape(w, last) {body} }}"""
        used = {key: value for key, value in weights.items() if key in text}
        return Example.from_text(name, text, applies=applies, dtypes=(ir.DataType.FLOAT,), inputs={"ids": ids}, **used)

    weighted = "g = Gather<axis = 0>(f, i) u = Unsqueeze(g, last) m = Mul(r, u)"
    inverse = """s = Shape(i) e = ConstantOfShape<value = int64[1] {0}>(s) p = Range(zero, count, step)
        v = ScatterElements<axis = 0>(e, i, p)"""
    end = "b = Gather<axis = 0>(m, v) a = Reshape(b, apart) y = ReduceSum<keepdims = 0>(a, one)"
    yield one("as exporters write it", f"{weighted} {inverse} {end}")
    yield one("weight first", f"{weighted.replace('(r, u)', '(u, r)')} {inverse} {end}")
    yield one("not inverted", f"{weighted} {end.replace('(m, v)', '(m, i)')}", applies=False)
    yield one("weights unsorted", f"u = Unsqueeze(f, last) m = Mul(r, u) {inverse} {end}", applies=False)


REWRITES = (
    Search(
        "fuse_moe_combine",
        ("", "ReduceSum"),
        _match,
        lambda op, rows, index, weights: op.MoeCombine(rows, index, weights, _domain="porting"),
        _CONTRACT,
        _examples,
    ),
)


class FuseMoeCombine(RewritePass):
    """Add up what the experts made of each token by one operator; after :class:`FuseMoeDispatch`.

    1. Rows in the order of a dispatch times their weights, gathered by the inverse of its index, summed over the slots
       of each token: MoeCombine of the rows and of the weights as the gating gave them.
    2. The order is not that of a dispatch, something else reads the weighted rows, or dtypes differ: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
