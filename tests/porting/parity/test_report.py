from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import onnx_ir as ir
import pytest

from porting import schemas
from porting.frontends import origin
from porting.parity import report
from porting.parity.budgets import default_budget
from porting.parity.comparison import Claim, measure
from porting.parity.report import sections
from porting.parity.report.chart import layer_chart
from porting.parity.report.markup import Markup, join, tag

HOSTILE = '</code><script>alert("x")</script>&$title'


class Page(HTMLParser):
    """Text, tags and addresses of a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.words, self.addresses = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "srcset", "action")]
        if name not in ("meta", "input", "br"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def port():
    document = {
        "schema_version": 1,
        "source": {"path": "models/net.onnx", "kind": "onnx", "digest": "sha256:" + "0" * 64},
        "backend": "ascend-910b", "surface": "atc-onnx", "scheme": "none", "dtype": "float32", "opset": 17,
        "tools": {"torch": "2.9"}, "threads": {"intra_op": 1},
        "operators": {"before": {"Conv": 1, "Gelu": 2}, "after": {"Conv": 1, "Erf": 2}},
        "passes": ["Canonicalize", "Legalize"],
        "rewrites": [{"rule": "gelu_to_erf", "count": 2, "sources": ["g"],
                      "contract": {"kind": "ulp", "value": 2, "reason": "one rounding more"}}],
        "unknowns_allowed": [{"operator": "GridSample", "nodes": 1, "reasons": ["no row says"]}],
        "kept_in_float": [{"name": "/fc", "operator": "Gemm", "reason": "alpha is not 1"}],
        "not_in_graph": ["model.layers.61"],
        "files": {"model.onnx": "sha256:" + "1" * 64},
        "consumer": "atc --framework=5 --model=model.onnx",
        "weights": "beside",
        "dims": {}, "inputs": [], "outputs": [], "calibration": None, "digest": "sha256:" + "2" * 64,
    }  # fmt: skip
    return document


@pytest.fixture
def parity(make_net, samples, tmp_path):
    ported = make_net(scale=1.01)
    ir.save(ported, tmp_path / "model.onnx")
    claim = Claim("sha256:" + 64 * "0", "ascend-910b", "atc-onnx", "none", "float32")
    return measure(
        make_net(), ported, samples, claim=claim, inputs="user", budget=default_budget(), file=tmp_path / "model.onnx"
    ).to_json()


def test_the_page_says_what_the_documents_say(parity, port):
    schemas.validate("port", port)
    page = Page(report.render(parity, port))
    text = " ".join(page.words)
    for expected in (
        "fail", "models/net.onnx on ascend-910b", "/net/Conv", "net.py:7", "gelu_to_erf", "2 ULP", "one rounding more",
        "no row says", "alpha is not 1", "model.layers.61", "atc --framework=5 --model=model.onnx", "float32 rounding",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_page_needs_no_network(parity, port):
    text = report.render(parity, port)
    page = Page(text)
    assert all(address.startswith("#layer-") for address in page.addresses)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", text)


def test_the_same_documents_give_the_same_page(parity, port):
    assert report.render(parity, port) == report.render(parity, port)


def test_names_from_the_model_cannot_become_markup(parity, port):
    hostile = {
        **port, "source": {**port["source"], "path": HOSTILE}, "consumer": HOSTILE, "not_in_graph": [HOSTILE],
        "operators": {"before": {HOSTILE: 1}, "after": {}}, "passes": [HOSTILE], "files": {HOSTILE: HOSTILE},
    }  # fmt: skip
    for layer in parity["layers"]:
        layer.update({"name": HOSTILE, "module": HOSTILE, "file": HOSTILE, "rules": [HOSTILE], "operator": HOSTILE})
    for output in parity["outputs"]:
        output["name"] = HOSTILE
    for check in parity["checks"]:
        check.update(subject=HOSTILE, where=HOSTILE)
    parity["reasons"] = [HOSTILE]
    page = Page(report.render(parity, hostile))
    assert page.tags.count("script") == 1
    assert any(HOSTILE in word for word in page.words)


def test_an_overflow_is_shown_with_its_origin(port):
    text = '<ir_version: 8, opset_import: ["" : 17]> f ({0}[2] x) => ({0}[2] y) {{ s = Mul (x, x) y = Neg (s) }}'
    source, ported = ir.from_onnx_text(text.format("float")), ir.from_onnx_text(text.format("float16"))
    origin.stamp(source)
    origin.stamp(ported)
    claim = Claim("sha256:" + 64 * "0", "b", "s", "none", "float16")
    data = [{"x": np.array([1.0, 300.0], dtype=np.float32)}]
    measured = measure(source, ported, data, claim=claim, inputs="user", budget=default_budget()).to_json()
    assert [(o["name"], o["starts_here"]) for o in measured["overflows"]] == [("s", True), ("y", False)]
    words = Page(report.render(measured, port)).words
    assert "Beyond the range of the format" in words
    assert words.index("here") < words.index("follows an earlier one")
    assert {"90000", "65504"} <= set(words)


def test_a_page_without_samples_is_still_a_page(make_net, port):
    claim = Claim("sha256:" + 64 * "0", "b", "s", "none", "float32")
    empty = measure(make_net(), make_net(), [], claim=claim, inputs="user", budget=default_budget()).to_json()
    assert "not measured" in Page(report.render(empty, port)).words


def metrics(rel_l2, nan=0):
    return {"rel_l2": rel_l2, "sqnr_db": 300.0 if rel_l2 == 0 else 60.0, "nan_count": nan, "inf_count": 0}


def layer(isolated, accumulated):
    names = {"name": "a<b", "module": None, "node": None, "operator": "Conv", "ported_operator": "Conv"}
    return {**names, "file": None, "line": None, "isolated": isolated, "accumulated": accumulated}


def test_the_chart_has_one_point_a_layer_inside_its_frame():
    layers = [layer(metrics(10.0**-e), metrics(1e-3)) for e in range(1, 7)] * 84
    layers += [layer(metrics(0.0), metrics(1e15, nan=1)), layer(None, metrics(0.0))]
    chart = ElementTree.fromstring(layer_chart(layers, 1e-5, "limit"))
    points = list(chart.iter("circle"))
    assert len(points) == len(layers) - 1
    assert all(0 < float(c.get("cx")) < 1120 and 0 < float(c.get("cy")) < 360 for c in points)
    assert float(points[0].get("cy")) < float(points[5].get("cy")), "a larger error is higher"
    assert len(chart.find(".//g[@class='bad-mark']")) == 1
    assert len(chart.find(".//g[@class='hits']")) == len(layers)
    assert chart.find(".//line[@class='limit']") is not None


def test_markup_is_escaped_once():
    assert tag("p", "a<b", Markup("<i>c</i>"), title='"&') == '<p title="&quot;&amp;">a&lt;b<i>c</i></p>'
    assert join(["<", None, Markup("<br>")], ", ") == "&lt;, <br>"
    assert tag("input", hidden=True, class_=None) == "<input hidden>"


def test_a_language_model_is_spoken_of_in_words() -> None:
    output = {
        "name": "logits", "positions": 4096, "kl_mean": 4.1e-4, "kl_max": 0.2, "kl_p99": 0.008,
        "top1_agreement": 0.9946,
        "perplexity": 2.4392, "perplexity_reference": 2.4377,
    }  # fmt: skip
    text = str(sections.language(output))
    assert "tokens: divergence 4.10e-4 nats a token (largest 0.2, 99 % of them at most 0.008)" in text
    assert "99.46%" in text
    assert "2.4392 where the reference has 2.4377" in text
    assert sections.language({"name": "y"}) is None
