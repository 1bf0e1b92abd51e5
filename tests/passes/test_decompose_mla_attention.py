"""A surface that has latent attention in one order only; the contract itself is held in test_contracts.py."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from porting_passes.legalize import Legalize
from porting_passes.operator_set import OperatorSet


def surface(*constraints: str) -> OperatorSet:
    """Nothing but MLAAttention, under these constraints."""
    return OperatorSet.from_json(
        {
            "surface": "made up",
            "opset": 20,
            "unlisted": "illegal",
            "unlisted_reason": {"reason": "not in the manual", "source": "the manual"},
            "rows": [
                {
                    "operator": "MLAAttention",
                    "domain": "porting",
                    "opset": [1, 99],
                    "inputs": None,
                    "outputs": None,
                    "constraints": [{"text": c, "expression": c, "source": "the manual"} for c in constraints],
                    "source": ["the manual"],
                    "evidence": "doc",
                }
            ],
            "refused": {},
        }
    )


def model_of(attributes: str) -> ir.Model:
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 20, "porting": 1]>
        g (float[2, 3, 5, 4] qn, float[2, 3, 5, 2] qr, float[2, 5, 6] l, float[2, 1, 5, 2] kr, float[6, 36] kv_b,
        float[1, 1, 1, 1] m) => (float[2, 5, 24] y)
        {{ y = porting.MLAAttention<scale = 0.4, is_causal = 1{attributes}>(qn, qr, l, kr, kv_b, m) }}"""
    )


@pytest.mark.parametrize(
    ("wanted", "given", "rule"),
    [(1, ", absorbed = 0", "mla_absorb"), (1, "", "mla_absorb"), (0, ", absorbed = 1", "mla_expand")],
)
def test_the_order_that_the_surface_has_is_taken(wanted, given, rule) -> None:
    model = model_of(given)
    result = Legalize(surface(f'attr("absorbed") == {wanted}'))(model)
    assert result.failures == []
    assert [applied.rule for applied in result.applied] == [rule]
    (node,) = model.graph
    assert (node.op_type, node.attributes["absorbed"].value, node.attributes["is_causal"].value) == (
        "MLAAttention", wanted, 1,
    )  # fmt: skip
    assert node.attributes["scale"].value == pytest.approx(0.4)
    assert node.outputs[0].name == "y"


def test_the_order_that_is_legal_already_stays() -> None:
    model = model_of(", absorbed = 0")
    assert not Legalize(surface())(model).modified


def test_where_neither_order_is_legal_both_are_told() -> None:
    (failure,) = Legalize(surface('attr("absorbed") == 2'))(model_of(", absorbed = 0")).failures
    assert failure.verdict == "illegal"
    tried = dict(failure.candidates)
    assert "MLAAttention is illegal" in tried["mla_absorb"]
    assert tried["mla_expand"] == "it is in this order already"


def test_a_surface_that_has_neither_order_gets_plain_operators() -> None:
    """The two orders lead to each other; the search must not go round."""
    neither = OperatorSet.from_json(
        {
            "surface": "made up",
            "opset": 20,
            "unlisted": "legal",
            "unlisted_reason": {"reason": "anything plain", "source": "the manual"},
            "rows": [],
            "refused": {"porting.MLAAttention": {"reason": "no attention", "source": "the manual"}},
        }
    )
    model = model_of("")
    result = Legalize(neither)(model)
    assert result.failures == []
    assert {"MatMul", "Softmax"} <= {node.op_type for node in model.graph}
    assert all(node.domain == "" for node in model.graph)
