"""RMS normalization of a sum  ->  porting.AddRMSNorm, which gives the sum too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.contract import Contract, Example
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute, rank
from porting_passes.pattern_facts import has_dtype
from porting_passes.rewrite import Accepts, RewritePass
from porting_passes.search import Search, Trail

_CONTRACT = Contract("tolerance", 2e-6, "two implementations of one normalization", nonfinite=False)
_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def _match(trail: Trail, node: ir.Node) -> dict[str, Any]:
    """From the normalization up to the sum, which has to have other readers."""
    total, weight = node.inputs[0], node.inputs[1]
    add = trail.up(total, "Add")
    x, residual = add.inputs
    trail.require(total is not None and x is not None and residual is not None and weight is not None)
    assert total is not None
    assert x is not None
    assert residual is not None
    dims = dims_of(total)
    alike = dims is not None and None not in dims and dims_of(x) == dims and dims_of(residual) == dims
    trail.require(alike and has_dtype(total, *_DTYPES) and rank(weight) == 1)
    trail.require(attribute(node, "axis", -1) in (-1, len(dims or ()) - 1))
    trail.require(len({reader for reader, _ in total.uses()}) > 1 or total.is_graph_output())
    trail.outputs = [node.outputs[0], total]
    return {
        "operands": (x, residual, weight),
        "epsilon": attribute(node, "epsilon", 1e-5 if node.domain == "" else 1e-6),
        "weight_offset": attribute(node, "weight_offset") or None,
    }


def _examples(root: str) -> Any:
    def make(rng: np.random.Generator) -> Iterable[Example]:
        def one(name: str, body: str, outputs: str, applies: bool, residual: str = "2, 3, 8") -> Example:
            opset = 20 if root.startswith("porting") else 23
            text = f"""<ir_version: 10, opset_import: ["": {opset}, "porting": 1]>
                g (float[2, 3, 8] x, float[{residual}] r) => ({outputs}) <float[2, 3, 8] s, float[2, 3, 8] n>
                {{ s = Add(x, r) {body} }}"""
            weight = rng.standard_normal(8).astype(np.float32)
            return Example.from_text(name, text, applies=applies, dtypes=_DTYPES[:2], w=weight)

        norm = f"n = {root}<epsilon = 1e-3>(s, w)"
        both = "float[2, 3, 8] y, float[2, 3, 8] z"
        yield one("sum goes on", f"{norm} y = Neg(n) z = Neg(s)", both, True)
        yield one("sum is an output", norm, "float[2, 3, 8] n, float[2, 3, 8] s", True)
        yield one("sum ends here", f"{norm} y = Neg(n)", "float[2, 3, 8] y", False)
        yield one("broadcast", f"{norm} y = Neg(n) z = Neg(s)", both, False, "3, 8")

    return make


def _replacement(op: Any, operands: tuple[ir.Value, ...], epsilon: float, weight_offset: float | None) -> Any:
    return op.AddRMSNorm(*operands, epsilon=epsilon, weight_offset=weight_offset, _domain="porting", _outputs=2)


REWRITES = tuple(
    Search(name, root, _match, _replacement, _CONTRACT, _examples(".".join(filter(None, root))), several_outputs=True)
    for name, root in (
        ("fuse_add_rms_norm", ("porting", "RMSNorm")),
        ("fuse_add_rms_normalization", ("", "RMSNormalization")),
    )
)


class FuseAddRmsNorm(RewritePass):
    """The residual sum and its normalization, as the chips have them; after :class:`FuseRmsNorm`.

    1. The normalization over the last axis of a sum of two values of one shape, which others read too: fuse.
    2. Nobody else reads the sum, a summand is broadcast, the axes are more than the last: leave.
    """

    def __init__(self, *, accepts: Accepts | None = None) -> None:
        super().__init__(REWRITES, accepts=accepts)
