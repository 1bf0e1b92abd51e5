from __future__ import annotations

from xml.etree import ElementTree

import pytest

from porting import schemas
from porting.parity import junit


def check(question, subject, verdict, metric="rel_l2"):
    return {
        "question": question, "subject": subject, "metric": metric, "verdict": verdict, "required": "<= 1e-05",
        "met": 0.25, "where": "net.py:7", "source": "float32 rounding",
    }  # fmt: skip


def document(*checks):
    head = {"backend": "b", "surface": "s", "scheme": "none", "dtype": "float32", "numerics": "exact"}
    return {**head, "inputs": "user", "samples": 2, "verdict": "fail", "layers": [], "checks": list(checks)}


def cases(text):
    return {(c.get("classname"), c.get("name")): c for c in ElementTree.fromstring(text).iter("testcase")}


def test_one_case_an_output_and_a_layer():
    text = junit.render(
        document(
            check("outputs", "y", "pass"),
            check("outputs", "y", "fail", "cosine"),
            check("isolated", "c", "pass"),
            check("fidelity", "y", "pass"),
        )
    )
    assert set(cases(text)) == {("parity.outputs", "y"), ("parity.isolated", "c"), ("parity.fidelity", "y")}
    root = ElementTree.fromstring(text)
    assert {k: root.get(k) for k in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3", "failures": "1", "skipped": "0", "errors": "0",
    }  # fmt: skip


def test_every_question_of_a_check_has_a_suite():
    questions = schemas.load("parity")["properties"]["checks"]["items"]["properties"]["question"]["enum"]
    text = junit.render(document(*(check(question, "y", "fail") for question in questions)))
    assert {name for name, _ in cases(text)} == {f"parity.{question}" for question in questions}


def test_a_layer_is_called_by_its_module_first():
    parity = {**document(check("isolated", "c", "pass"), check("outputs", "c", "pass"))}
    parity["layers"] = [{"name": "c", "module": "stem.1"}]
    assert set(cases(junit.render(parity))) == {("parity.isolated", "stem.1: c"), ("parity.outputs", "c")}


def test_a_failure_says_required_met_and_where():
    failure = cases(junit.render(document(check("isolated", "c", "fail"))))["parity.isolated", "c"].find("failure")
    assert failure.get("message") == "rel_l2: required <= 1e-05, met 0.25, at net.py:7"
    assert "float32 rounding" in failure.text


@pytest.mark.parametrize("verdict", ["ambiguous", "not_measured"])
def test_what_is_no_pass_is_skipped_or_with_strict_a_failure(verdict):
    loose, strict = (
        cases(junit.render(document(check("outputs", "y", verdict)), strict=s))["parity.outputs", "y"]
        for s in (False, True)
    )
    assert loose.find("skipped").get("message").startswith(verdict)
    assert loose.find("failure") is None
    assert strict.find("failure").get("type") == verdict


def test_names_are_escaped_and_cleaned():
    text = junit.render(document(check("outputs", 'a<b>&"\x00\x1b', "pass")))
    assert list(cases(text)) == [("parity.outputs", 'a<b>&"??')]


def test_the_same_document_gives_the_same_text():
    one = document(check("outputs", "y", "fail"))
    assert junit.render(one) == junit.render(one)
