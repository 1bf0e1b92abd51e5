"""MLAAttention in the other order of products, where the target has only one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import Contract, Example
from porting_passes.decomposition import Decomposition
from porting_passes.node_facts import attribute

_CONTRACT = Contract("tolerance", 4e-6, "the products of three factors are taken in the other order", nonfinite=False)
_EXAMPLE = """<ir_version: 10, opset_import: ["": 20, "porting": 1]>
    g (float[2, 3, 5, 4] qn, float[2, 3, 5, 2] qr, float[2, 5, 6] l, float[2, 1, 5, 2] kr, float[6, 36] kv_b,
    float[2, 1, 5, 5] m) => (float[2, 5, 24] y)
    { y = porting.MLAAttention<scale = 0.4, ATTRIBUTES>(qn, qr, l, kr, kv_b, m) }"""


def _reordered(absorbed: int) -> Callable[[Builder, ir.Node], Sequence[ir.Value]]:
    def build(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
        attributes = {**node.attributes, "absorbed": ir.AttrInt64("absorbed", absorbed)}
        return b.emit(node.op_type, node.inputs, attributes, domain=node.domain)

    return build


def _lacks(absorbed: int) -> Callable[[ir.Node, int], str | None]:
    def applies(node: ir.Node, opset: int) -> str | None:
        return "it is in this order already" if attribute(node, "absorbed", 0) == absorbed else None

    return applies


def _examples(absorbed: int) -> Callable[[np.random.Generator], Iterable[Example]]:
    def make(rng: np.random.Generator) -> Iterable[Example]:
        for name, attributes, applies in (
            ("given", f"absorbed = {1 - absorbed}", True),
            ("causal", f"is_causal = 1, absorbed = {1 - absorbed}", True),
            ("there", f"absorbed = {absorbed}", False),
        ):
            text = _EXAMPLE.replace("ATTRIBUTES", attributes)
            yield Example.from_text(name, text, applies=applies, dtypes=(ir.DataType.FLOAT,))

    return make


DECOMPOSITIONS = tuple(
    Decomposition(
        name, "MLAAttention", _reordered(to), _CONTRACT, _examples(to), _lacks(to), domain="porting", variant=True
    )
    for name, to in (("mla_absorb", 1), ("mla_expand", 0))
)
