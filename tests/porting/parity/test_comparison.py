from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from porting import schemas
from porting.backends.backend import NumericsLine
from porting.errors import InvalidInputError, ParityError
from porting.frontends import origin
from porting.json_text import json_text
from porting.parity.budgets import default_budget
from porting.parity.comparison import Claim, measure
from porting_kernels.numerics import EXACT
from porting_passes.operators import dequantize, integer_conv, quantize

CLAIM = Claim("sha256:" + 64 * "0", "reference", "reference", "none", "float32")
HALF = dataclasses.replace(CLAIM, dtype="float16")


def run(source, ported, samples, **options):
    return measure(source, ported, samples, **{"claim": CLAIM, "inputs": "user", "budget": default_budget(), **options})


def test_a_whole_measurement_passes_and_fits_its_schema(make_net, samples, tmp_path):
    ported = make_net()
    ir.save(ported, tmp_path / "model.onnx")
    parity = run(make_net(), ported, samples, file=tmp_path / "model.onnx")
    assert (parity.verdict, parity.reasons) == ("pass", [])
    assert {c.question for c in parity.checks} == {"fidelity", "outputs", "isolated"}
    schemas.validate("parity", parity.to_json())
    schemas.validate("evidence", parity.evidence())
    assert [v["name"] for v in parity.evidence()["values"]] == ["c", "r", "g", "y"]


def test_documents_are_the_same_bytes_for_any_threads(make_net, samples, tmp_path):
    ported = make_net("float16")
    ir.save(ported, tmp_path / "model.onnx")
    texts = [
        json_text(run(make_net(), ported, samples, claim=HALF, file=tmp_path / "model.onnx", threads=n).to_json())
        for n in (1, 2)
    ]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]


def test_a_wrong_port_fails_and_names_the_layer(make_net, samples):
    parity = run(make_net(), make_net(scale=1.01), samples)
    assert parity.verdict == "fail"
    wrong = [c for c in parity.checks if c.question == "isolated" and c.verdict == "fail"]
    assert [(c.subject, c.where) for c in wrong] == [("c", "net.py:7")]


def test_fidelity_that_was_not_measured_is_no_pass(make_net, samples):
    parity = run(make_net(), make_net(), samples)
    assert parity.verdict == "not_measured"
    assert "fidelity" in parity.reasons[0]


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "not_measured"), (1.01, "fail")])
def test_synthetic_inputs_never_pass_but_can_fail(make_net, samples, tmp_path, scale, verdict):
    ported = make_net(scale=scale)
    ir.save(ported, tmp_path / "model.onnx")
    parity = run(make_net(), ported, samples, inputs="synthetic", file=tmp_path / "model.onnx")
    assert parity.verdict == verdict


def test_no_samples_is_not_measured(make_net):
    parity = run(make_net(), make_net(), [])
    assert parity.verdict == "not_measured"
    schemas.validate("parity", parity.to_json())


def test_float16_holds_its_own_limits(make_net, samples):
    parity = run(make_net(), make_net("float16"), samples, claim=HALF)
    judged = [c for c in parity.checks if c.question in ("outputs", "isolated")]
    assert judged
    assert {c.verdict for c in judged} == {"pass"}
    assert parity.outputs["y"].rel_l2 > 0


def test_the_interpreter_is_held_against_an_independent_reference(make_net, samples):
    def wrong(inputs):
        return {"y": np.full((2, 4, 1, 1), 0.25, dtype=np.float32)}

    parity = run(make_net(), make_net(), samples, reference=wrong, reference_name="constant")
    assert parity.verdict == "fail"
    assert {c.question for c in parity.checks if c.verdict == "fail"} == {"reference", "outputs"}


def test_an_output_that_the_source_lacks_is_an_error(make_net, samples):
    ported = make_net()
    ported.graph.outputs[0].name = "z"
    with pytest.raises(ParityError, match="other outputs than the source"):
        run(make_net(), ported, samples)
    source = make_net()
    source.graph.outputs.append(next(iter(source.graph)).outputs[0])
    with pytest.raises(ParityError, match="other outputs than the source"):
        run(source, make_net(), samples)


def test_a_missing_input_is_named(make_net):
    with pytest.raises(InvalidInputError, match="'x'"):
        run(make_net(), make_net(), [{"z": np.zeros(1, dtype=np.float32)}])


def quantized_net():
    """x -> Quantize -> IntegerConv -> Dequantize -> y, and the float convolution that it stands for."""
    step = 1 / 16
    codes = np.random.default_rng(8).integers(-9, 9, (4, 3, 3, 3)).astype(np.int8)
    weight_scale = np.float32([0.0131, 0.0171, 0.0091, 0.0111])
    weight = (codes * weight_scale[:, None, None, None]).astype(np.float32)
    source = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> f (float[1,3,6,6] x) => (float[1,4,4,4] y) { y = Conv (x, w) }',
        initializers=[ir.tensor(weight, name="w")],
    )
    ported = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 17, "porting" : 1]> f (float[1,3,6,6] x) => (float[1,4,4,4] y) {{
          q = porting.Quantize <scale={1 / step}> (x)
          a = porting.IntegerConv (q, w, b)
          y = porting.Dequantize <axis=1> (a, s)
        }}""",
        initializers=[
            ir.tensor(codes, name="w"),
            ir.tensor(np.zeros(4, dtype=np.int32), name="b"),
            ir.tensor(weight_scale * np.float32(step), name="s"),
        ],
    )
    for operator in (quantize, integer_conv, dequantize):
        function = operator.body(17)
        ported.functions[function.identifier()] = function
    origin.stamp(source)
    origin.stamp(ported)
    return source, ported


LINES = [
    NumericsLine("dequantize_scale", "fp19", "the scale word has 19 bits", "doc"),
    NumericsLine("quantize_rounding", "half_away", "assumed here", "assumed"),
]


def test_static_int8_fidelity_scheme_error_and_lines_are_kept_apart(tmp_path):
    source, ported = quantized_net()
    ir.save(ported, tmp_path / "twin.onnx")
    generator = np.random.default_rng(9)
    data = [{"x": generator.standard_normal((1, 3, 6, 6)).astype(np.float32)} for _ in range(3)]
    numerics = dataclasses.replace(EXACT, dequantize_scale="fp19", quantize_rounding="half_away")
    parity = run(
        source, ported, data, claim=dataclasses.replace(CLAIM, scheme="w8a8-static"), file=tmp_path / "twin.onnx",
        numerics=numerics, lines=LINES,
    )  # fmt: skip
    assert (parity.verdict, parity.numerics) == ("pass", "backend")
    assert parity.fidelity.outputs["y"].rel_l2 <= 1e-5, "exact numerics and the bodies in onnxruntime agree"
    assert parity.fidelity.codes["q"].count == 3 * 108
    assert 25 < parity.outputs["y"].sqnr_db < 60, "the scheme itself is far from float"

    fp19, ties = parity.effects
    assert 1e-5 < fp19.against_exact["y"].rel_l2 < 2**-10, "cutting 13 of 23 bits changes less than one in 2**10"
    assert ties.against_exact["y"].rel_l2 == 0.0, "random data has no exact ties, so that line changes nothing"
    assert parity.outputs_exact["y"] != parity.outputs["y"]
    schemas.validate("parity", parity.to_json())
    assert [c for c in parity.checks if c.question == "isolated"] == [], "a scheme has no limit on single layers"
