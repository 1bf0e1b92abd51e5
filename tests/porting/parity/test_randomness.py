"""A model that draws random numbers gets no verdict, neither a fault nor a pass by luck."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting import schemas
from porting.frontends import origin
from porting.parity import randomness
from porting.parity.budgets import default_budget
from porting.parity.comparison import Claim, measure

HEAD = '<ir_version: 8, opset_import: ["" : 17]> f (float[2,4] x) => (float[2,4] y) '
NOISY = HEAD + "{ [noise] n = RandomNormalLike <scale: float = %s> (x) y = Add (x, n) }"


def model(text: str) -> ir.Model:
    made = ir.from_onnx_text(text)
    origin.stamp(made)
    return made


@pytest.mark.parametrize("scale", ["1.0", "0.0"], ids=["it differs", "it agrees by luck"])
def test_it_is_not_measured_and_the_nodes_are_named(scale: str) -> None:
    data = [{"x": np.ones((2, 4), np.float32)}]
    claim = Claim("sha256:" + 64 * "0", "reference", "reference", "none", "float32")
    parity = measure(
        model(NOISY % scale), model(NOISY % scale), data, claim=claim, inputs="user", budget=default_budget()
    )
    assert parity.verdict == "not_measured"
    assert list(parity.reasons) == ["the model draws random numbers: noise"]
    assert {check.verdict for check in parity.checks} == {"not_measured"}
    schemas.validate("parity", parity.to_json())


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("{ y = Relu (x) }", []),
        ("{ [d] y = Dropout (x) }", []),
        (
            "{ t = Constant <value = bool {1}> () [d] y = Dropout (x, , t) }",
            ["d"],
        ),
        ("{ [b] y = Bernoulli (x) }", ["b"]),
    ],
)
def test_what_draws_is_found(body: str, found: list[str]) -> None:
    assert randomness.drawing(model(HEAD + body)) == found
