from __future__ import annotations

import dataclasses

import pytest
import torch

from porting.parity.anchors import Anchor
from porting.parity.budgets import default_budget
from porting.parity.fidelity import Codes, Fidelity
from porting.parity.layers import Layer
from porting.parity.metrics import measure
from porting.parity.products import Spread
from porting.parity.verdict import Check, Judge, overall, worst
from porting_passes import provenance

SAME = measure(torch.ones(4), torch.ones(4))
OFF = measure(torch.ones(4), 1.001 * torch.ones(4))
INTEGERS_OFF = measure(torch.tensor([1, 2]), torch.tensor([1, 3]))


def judge(scheme="none", dtype="float32"):
    return Judge(default_budget(), scheme=scheme, dtype=dtype)


def check(verdict):
    return Check("outputs", "y", "rel_l2", verdict, "<= 1", 2.0, "here", "a source")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "ambiguous"], "ambiguous"),
        (["not_measured", "ambiguous"], "ambiguous"),
        (["pass", "not_measured"], "not_measured"),
        (["ambiguous", "fail", "pass"], "fail"),
        ([], "not_measured"),
    ],
)
def test_the_gravest_check_decides(verdicts, expected):
    assert worst(map(check, verdicts)) == expected
    assert overall([check(v) for v in verdicts], inputs="user", samples=1)[0] == expected


def test_shipped_text_can_pass_and_synthetic_cannot():
    assert overall([check("pass")], inputs="shipped text", samples=1) == ("pass", [])
    verdict, reasons = overall([check("pass")], inputs="synthetic", samples=1)
    assert verdict == "not_measured"
    assert "synthetic" in reasons[0]


def test_reasons_say_required_and_met():
    _, reasons = overall([check("fail"), check("pass")], inputs="user", samples=1)
    assert reasons == ["outputs y: rel_l2 required <= 1, met 2.0, at here"]


def test_limits_depend_on_scheme_and_dtype():
    def verdict(scheme, dtype):
        return worst(judge(scheme, dtype).values("outputs", {"y": OFF}, "here"))

    assert verdict("none", "float32") == "fail"
    assert verdict("none", "float16") == "pass"
    assert verdict("w8a8-static", "float32") == "pass"


def test_nan_fails_whatever_the_scheme():
    nan = dataclasses.replace(SAME, nan_count=1)
    for scheme in ("none", "w8a8-static", "w2a2"):
        assert worst(judge(scheme).values("outputs", {"y": nan}, "here")) == "fail"


def test_integers_fail_in_float32_and_are_ambiguous_where_near_ties_may_flip():
    assert worst(judge().values("outputs", {"y": INTEGERS_OFF}, "here")) == "fail"
    assert worst(judge(dtype="float16").values("outputs", {"y": INTEGERS_OFF}, "here")) == "ambiguous"
    assert worst(judge("w8a8-static").values("outputs", {"y": INTEGERS_OFF}, "here")) == "ambiguous"


@pytest.mark.parametrize(
    ("wrong", "verdict"), [(0, "pass"), (2, "ambiguous"), (22, "ambiguous"), (23, "fail"), (1000, "fail")]
)
def test_many_integers_that_differ_are_no_near_ties(wrong, verdict):
    integers = torch.arange(1000)
    measured = measure(integers, integers + (integers < wrong))
    for scheme, dtype in (("w8a8-static", "float32"), ("none", "float16"), ("none", "bfloat16")):
        assert worst(judge(scheme, dtype).values("outputs", {"y": measured}, "here")) == verdict


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_agreement_without_one_number_proves_nothing(value):
    same = torch.ones(0) if value is None else torch.full((4,), value)
    checks = judge().values("outputs", {"y": measure(same, same)}, "here")
    assert [(c.metric, c.verdict) for c in checks] == [("compared", "not_measured")]


def test_an_output_that_overflows_everywhere_fails():
    lost = measure(torch.full((4,), 1e6), torch.full((4,), float("inf"), dtype=torch.float16))
    assert lost.compared == 0
    assert worst(judge(dtype="float16").values("outputs", {"y": lost}, "here")) == "fail"


def test_masks_that_agree_are_compared():
    masks = torch.full((4,), float("-inf"))
    assert worst(judge().values("outputs", {"y": measure(masks, masks)}, "here")) == "pass"


def test_a_code_that_is_off_by_two_fails_in_every_dtype():
    for dtype in ("float32", "float16", "bfloat16"):
        codes = Fidelity("onnxruntime", {"y": SAME}, {"y": dtype}, {"q": Codes(1_000_000, 0, 1, 1)})
        assert worst(judge(dtype=dtype).fidelity(codes)) == "fail"


def test_a_scheme_without_a_limit_of_its_own_is_not_measured():
    checks = judge("w2a2").values("outputs", {"y": SAME}, "here")
    assert [(c.metric, c.verdict) for c in checks] == [("nonfinite_count", "pass"), ("limit", "not_measured")]
    assert "w2a2" in checks[1].required


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (Codes(100_000, 0, 0), "pass"),
        (Codes(100, 2, 0), "pass"),
        (Codes(100_000, 12, 0), "pass"),
        (Codes(100_000, 200, 0), "fail"),
        (Codes(100_000, 0, 1), "fail"),
    ],
    ids=["equal", "two ties in a small tensor", "a share of ties", "systematic ties", "one real mismatch"],
)
def test_integer_codes(codes, expected):
    fidelity = Fidelity("engine", {"y": SAME}, {"y": "float32"}, {"q": codes})
    assert worst(judge("w8a8-static").fidelity(fidelity)) == expected


def test_fidelity_without_a_run_says_why():
    (only,) = judge().fidelity(Fidelity("engine", not_measured="no such operator"))
    assert (only.verdict, only.met) == ("not_measured", "no such operator")


def isolated(rel_l2, *, quantized, spread=None):
    """A layer of a w8a8 port in bfloat16 whose isolated error is known."""
    origin = provenance.Provenance(sources=("c",), equal=True)
    reference = torch.ones(100)
    metrics = measure(reference, reference * (1 + rel_l2))
    return Layer(Anchor("v", "c", "n", "MatMul", "MatMul", origin), "bfloat16", metrics, metrics, quantized, spread)


@pytest.mark.parametrize("quantized, expected", [(True, "pass"), (False, "fail")])
def test_a_layer_without_integer_codes_is_judged_without_a_scheme(quantized, expected):
    (first, *_) = judge("w8a8", "bfloat16").layers([isolated(0.05, quantized=quantized)])
    assert (first.metric, first.verdict) == ("rel_l2", expected)


def test_one_bad_channel_fails_a_product_whose_norm_holds():
    layer = isolated(0.05, quantized=True, spread=Spread(channel_rel_l2=0.5, row_rel_l2=0.1, channel=3))
    assert [c.metric for c in judge("w8a8", "bfloat16").layers([layer]) if c.verdict == "fail"] == ["channel_rel_l2"]
