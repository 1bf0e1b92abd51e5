"""A parity verdict as JUnit XML: one test case for each output, each layer in isolation, fidelity, overflow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

# The order of the suites, which is the order in which one reads a failure.
_SUITES: Mapping[str, str] = {
    "reference": "the interpreter on the source against an independent reference",
    "fidelity": "port fidelity: simulation against an independent engine",
    "outputs": "scheme error: simulation against the reference",
    "routing": "the experts that tokens go to, router by router",
    "isolated": "each layer, fed reference inputs",
    "overflow": "layers beyond the range of their format",
    "baseline": "against the stored measurement",
}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(parity: Mapping[str, Any], *, strict: bool = False) -> str:
    """JUnit XML of a ``parity.json``.

    Checks on one subject make one test case, which fails with every limit that does not hold. Ambiguous and
    not_measured are skipped test cases with their reason, or failures when ``strict``. There are no times in it.
    """
    modules = {layer["name"]: layer["module"] for layer in parity["layers"] if layer["module"]}
    root = ElementTree.Element("testsuites", name="porting parity")
    totals = [0, 0, 0]
    for question, title in _SUITES.items():
        cases: dict[str, list[Mapping[str, Any]]] = {}
        for check in parity["checks"]:
            if check["question"] == question:
                cases.setdefault(check["subject"], []).append(check)
        if not cases:
            continue
        suite = ElementTree.SubElement(root, "testsuite", name=f"parity.{question}")
        properties = ElementTree.SubElement(suite, "properties")
        for key in ("backend", "surface", "scheme", "dtype", "numerics", "inputs", "samples", "verdict"):
            ElementTree.SubElement(properties, "property", name=key, value=_clean(str(parity[key])))
        ElementTree.SubElement(properties, "property", name="question", value=title)
        counts = [
            _case(suite, question, _name(question, subject, modules), checks, strict)
            for subject, checks in cases.items()
        ]
        numbers = [len(counts), counts.count("failure"), counts.count("skipped")]
        _set_counts(suite, numbers)
        totals = [a + b for a, b in zip(totals, numbers, strict=True)]
    _set_counts(root, totals)
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _name(question: str, subject: str, modules: Mapping[str, str]) -> str:
    """A layer's place in the user's model before the name of its value, which torch's exporter made up."""
    module = modules.get(subject) if question in ("isolated", "overflow") else None
    return f"{module}: {subject}" if module else subject


def _set_counts(element: ElementTree.Element, numbers: Sequence[int]) -> None:
    for name, number in zip(("tests", "failures", "skipped"), numbers, strict=True):
        element.set(name, str(number))
    element.set("errors", "0")
    element.set("time", "0")


def _case(
    suite: ElementTree.Element, question: str, name: str, checks: Sequence[Mapping[str, Any]], strict: bool
) -> str:
    case = ElementTree.SubElement(suite, "testcase", classname=f"parity.{question}", name=_clean(name), time="0")
    failing = {"fail", "ambiguous", "not_measured"} if strict else {"fail"}
    failed = [check for check in checks if check["verdict"] in failing]
    open_ = [check for check in checks if check["verdict"] not in ("pass", *failing)]
    outcome = "passed"
    if failed:
        outcome = "failure"
        node = ElementTree.SubElement(case, "failure", type=failed[0]["verdict"], message=_message(failed[0]))
        node.text = _clean("\n\n".join(map(_text, failed)))
    elif open_:
        outcome = "skipped"
        ElementTree.SubElement(case, "skipped", message=f"{open_[0]['verdict']}: {_message(open_[0])}")
    return outcome


def _message(check: Mapping[str, Any]) -> str:
    return _clean(f"{check['metric']}: required {check['required']}, met {_number(check['met'])}, at {check['where']}")


def _text(check: Mapping[str, Any]) -> str:
    rows = ("metric", "required", "met", "where", "source")
    return "\n".join(f"{key:<8} {_number(check[key])}" for key in rows if check[key] not in (None, ""))


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return _NOT_XML.sub("?", text)
