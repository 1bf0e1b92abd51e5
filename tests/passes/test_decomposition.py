"""What holds for every decomposition: it reads each attribute of its operator, and makes the dtype that was there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.builder import BuildError
from porting_passes.contract import EXACT
from porting_passes.decomposition import OPSETS, Case, Decomposition, Run, build, examples, node_model
from porting_passes.decompositions import DECOMPOSITIONS
from porting_passes.schemas import NEWEST_OPSET, schema

WITHOUT_EFFECT = {
    ("Attention", "qk_matmul_output_mode"): "only the fourth output depends on it, and a node with one used is left",
    ("BatchNormalization", "momentum"): "only the statistics of training depend on it",
    ("Dropout", "ratio"): "nothing is dropped at inference",
    ("Dropout", "seed"): "nothing is dropped at inference",
    ("MaxPool", "storage_order"): "only the indices depend on it",
    ("QuantizeLinear", "precision"): "both operands are float32, which is the least it may ask for",
    ("QuantizeLinear", "saturate"): "only float8 codes depend on it",
    ("Split", "num_outputs"): "the node has that many outputs",
    ("Range", "stash_type"): "no float that it may name is narrower than the float32 that is counted in",
}


class Watched(dict[str, ir.Attr]):
    """Attributes that remember which names were asked for; whoever walks through all has seen all."""

    def __init__(self, attributes: Any) -> None:
        super().__init__(attributes)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> ir.Attr:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self.asked.add("*")
        return super().__iter__()


def attributes_read(one: Decomposition) -> set[str]:
    asked: set[str] = set()
    for example in one.examples(np.random.default_rng(0)):
        opset = example.model.opset_imports[""]
        for node in example.model.graph:
            if node.op_type == one.op_type:
                node.attributes.data = watched = Watched(node.attributes)
                if one.applies(node, opset) is None:
                    build(node, one, opset)
                asked |= watched.asked
    return asked


@pytest.mark.parametrize("one", DECOMPOSITIONS, ids=lambda one: one.name)
def test_every_attribute_of_the_operator_is_read(one: Decomposition) -> None:
    """Up to the newest opset of the installed onnx: an attribute that a later version adds fails here."""
    schemas = (schema(one.domain, one.op_type, opset) for opset in range(OPSETS[0], NEWEST_OPSET + 1))
    known = {name for found in schemas if found is not None for name in found.attributes}
    known -= {name for operator, name in WITHOUT_EFFECT if operator == one.op_type}
    asked = attributes_read(one)
    assert "*" in asked or known <= asked


def test_a_form_of_another_dtype_is_refused() -> None:
    wrong = Decomposition("wrong", "Neg", lambda b, node: [b.Cast(node.inputs[0], to=11)], EXACT, examples("Neg"))
    model = node_model("Neg", Case("case", (Run((3, 5)),)), 13)
    assert model is not None
    with pytest.raises(BuildError, match="wrong makes double of the float 'y0'"):
        build(model.graph.node(0), wrong, 13)
    assert len(model.graph.inputs[0].uses()) == 1, "the refused form must not stay a consumer"
