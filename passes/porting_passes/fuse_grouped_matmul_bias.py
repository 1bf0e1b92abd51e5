"""GroupedMatmul + the bias of each row's expert  ->  GroupedMatmul with a bias."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.constants import array_of
from porting_passes.contract import Contract, Example
from porting_passes.fuse_moe_dispatch import CHAIN, counted, example
from porting_passes.node_facts import attribute, operand, rank
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract("tolerance", 2e-6, "bias and products add up in another order", nonfinite=False)


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    gather, product_value = trail.operand(node, "Gather")
    product = trail.up(product_value, "GroupedMatmul", domain="porting")
    bias = gather.inputs[0]
    trail.require(_has_no_bias(product) and attribute(gather, "axis", 0) == 0 and rank(bias) == 2)
    # Only to see by which ids the offsets count; nothing of that is replaced.
    ordered, _, _ = counted(Trail(node), product.inputs[2])
    trail.require(gather.inputs[1] is ordered)
    return {"operands": (*product.inputs[:3], bias), "transposed": attribute(product, "transposed", 0)}


def _has_no_bias(product: ir.Node) -> bool:
    bias = operand(product, 3)
    array = array_of(bias, limit=1 << 16)
    return bias is None or (array is not None and not array.any())


def _examples(rng: np.random.Generator) -> Iterable[Example]:
    end = "q = porting.GroupedMatmul(r, w, o, none) d = Gather<axis = 0>(bias, v)"
    yield example(rng, "bias second", f"{end} p = Add(q, d)", "float[10, 6] p", True, CHAIN)
    yield example(rng, "bias first", f"{end} p = Add(d, q)", "float[10, 6] p", True, CHAIN)
    by_token = end.replace("(bias, v)", "(bias, j)").replace("q =", "j = Mod(i, k) q =")
    yield example(rng, "by slot", f"{by_token} p = Add(q, d)", "float[10, 6] p", False, CHAIN)


REWRITES = (
    Search(
        "fuse_grouped_matmul_bias",
        ("", "Add"),
        _match,
        lambda op, operands, transposed: op.GroupedMatmul(*operands, transposed=transposed, _domain="porting"),
        _CONTRACT,
        _examples,
    ),
)


class FuseGroupedMatmulBias(RewritePass):
    """Let a grouped product add its bias.

    1. A bias [experts, N] gathered by the sorted ids that the offsets count, and added to the product: its operand.
    2. It is gathered by something else, or the product has a bias: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
