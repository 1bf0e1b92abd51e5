"""``report.html``: one self-contained page for people.

No network, and nothing in it that is not in the two documents.
"""

from __future__ import annotations

import importlib.resources
import string
from collections.abc import Mapping, Sequence
from typing import Any

from porting.parity.report import language_model, sections
from porting.parity.report.chart import layer_chart
from porting.parity.report.markup import Markup, join, tag
from porting.parity.report.numbers import decibel, scientific
from porting.parity.report.tables import (
    badge,
    layers_table,
    list_of,
    number,
    operators_table,
    outputs_table,
    rewrites_table,
    table,
)

_SEVERITY = ("pass", "not_measured", "ambiguous", "fail")
_REASONS = 12


def render(parity: Mapping[str, Any], port: Mapping[str, Any]) -> str:
    """The page from ``parity.json`` and ``port.json``; the same documents give the same bytes."""
    body = join(
        [
            _head(parity, port),
            sections.overflows(parity),
            _outputs(parity),
            _fidelity(parity),
            sections.interpreter(parity, *_of(parity, "reference")),
            _numerics(parity),
            language_model.routing(parity, _of(parity, "routing")[0]),
            language_model.decoder_layers(parity),
            _layers(parity),
            _rewrites(port),
            _remarks(port),
            sections.details(parity, port),
        ]
    )
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    title = tag("title", f"{port['source']['path']} on {port['backend']}")
    return string.Template(template).substitute(title=title[len("<title>") : -len("</title>")], body=body)


def _head(parity: Mapping[str, Any], port: Mapping[str, Any]) -> Markup:
    facts = [
        ("source", port["source"]["path"]),
        ("backend", port["backend"]),
        ("surface", f"{port['surface']}, opset {port['opset']}"),
        ("scheme", port["scheme"]),
        ("dtype", port["dtype"]),
        ("compared on", f"{parity['samples']} batch{'es' * (parity['samples'] != 1)} ({parity['inputs']})"),
        ("reference", parity["reference"]),
        ("source digest", tag("code", port["source"]["digest"][:19])),
    ]
    reasons = parity["reasons"]
    listed = list_of(reasons[:_REASONS], lambda reason: reason) if reasons else None
    more = tag("p", f"and {len(reasons) - _REASONS} more in parity.json") if len(reasons) > _REASONS else None
    return tag(
        "section",
        tag("header", badge(parity["verdict"]), tag("h1", f"{port['source']['path']} on {port['backend']}")),
        listed,
        more,
        tag("dl", *[tag("div", tag("dt", name), tag("dd", value)) for name, value in facts]),
        tag("h3", "Next command"),
        tag("p", tag("code", port["consumer"])),
    )


def _of(parity: Mapping[str, Any], question: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The gravest verdict and the limits, by subject."""
    verdicts: dict[str, str] = {}
    required: dict[str, dict[str, str]] = {}
    for check in parity["checks"]:
        if check["question"] == question:
            known = verdicts.get(check["subject"], "pass")
            verdicts[check["subject"]] = max(known, check["verdict"], key=_SEVERITY.index)
            required.setdefault(check["subject"], {})[check["metric"]] = str(check["required"])
    return verdicts, required


def _outputs(parity: Mapping[str, Any]) -> Markup:
    verdicts, required = _of(parity, "outputs")
    return tag(
        "section",
        tag("h2", "Scheme error: how far is the port from the float model?"),
        tag("p", f"The simulation with {parity['numerics']} numerics against the reference.", class_="soft"),
        outputs_table(parity["outputs"], verdicts, required),
        *map(sections.language, parity["outputs"]),
    )


def _fidelity(parity: Mapping[str, Any]) -> Markup:
    fidelity = parity["fidelity"]
    heading = tag("h2", "Port fidelity: does the port compute the scheme that it claims?")
    against = tag("p", f"The simulation with exact numerics against {fidelity['against']}.", class_="soft")
    if fidelity["not_measured"]:
        return tag("section", heading, against, tag("p", badge("not_measured"), " ", fidelity["not_measured"]))
    verdicts, required = _of(parity, "fidelity")
    codes = fidelity["codes"]
    counted = None
    if codes:
        total, ties, wrong = (sum(c[key] for c in codes) for key in ("count", "ties", "mismatches"))
        counted = tag(
            "p",
            f"{total:,} integer codes of {len(codes)} quantizers: {wrong} differ, {ties} more lie on a rounding tie.",
        )
    return tag("section", heading, against, outputs_table(fidelity["outputs"], verdicts, required), counted)


def _numerics(parity: Mapping[str, Any]) -> Markup | None:
    rows: list[Sequence[object]] = []
    for line in parity["numerics_lines"]:
        for output in line["outputs"]:
            rows.append(
                [
                    tag("code", f"{line['field']} = {line['value']}"),
                    tag("code", output["name"]),
                    number(output["rel_l2"], scientific(output["rel_l2"])),
                    number(output["sqnr_db_exact"], decibel(output["sqnr_db_exact"])),
                    number(output["sqnr_db"], decibel(output["sqnr_db"])),
                    tag("td", line["evidence"], tag("small", line["source"])),
                ]
            )
    if not rows:
        return None
    head = ["line", "output", "change, rel. L2", "SQNR exact", "SQNR with the line", "evidence"]
    return tag(
        "section",
        tag("h2", "The chip's arithmetic, line by line"),
        tag("p", "Each line of the backend's numerics switched on alone, against exact numerics.", class_="soft"),
        table(head, rows, numeric=(2, 3, 4)),
    )


def _layers(parity: Mapping[str, Any]) -> Markup:
    layers = parity["layers"]
    limit, limit_text = sections.layer_limit(parity)
    verdicts, _ = _of(parity, "isolated")
    overflows, _ = _of(parity, "overflow")
    marked = {n: v for n, v in {**verdicts, **overflows}.items() if v != "pass"}
    legend = tag(
        "p",
        tag("span", tag("b", "\u25cf", class_="isolated-key"), " isolated: fed the reference's inputs"),
        tag("span", tag("b", "\u2014", class_="accumulated-key"), " accumulated: the whole port up to here"),
        class_="legend soft",
    )
    return tag(
        "section",
        tag("h2", f"Layers ({len(layers)})"),
        legend,
        layer_chart(layers, limit, limit_text) if layers else None,
        tag("input", type="search", id="filter", placeholder="filter layers", aria_label="filter layers", hidden=True),
        layers_table(layers, marked),
    )


def _rewrites(port: Mapping[str, Any]) -> Markup:
    return tag(
        "section",
        tag("h2", "Rewrites and operators"),
        rewrites_table(port["rewrites"]) if port["rewrites"] else tag("p", "No rewrite was needed."),
        tag("h3", "Operators before and after"),
        operators_table(port["operators"]["before"], port["operators"]["after"]),
    )


def _remarks(port: Mapping[str, Any]) -> Markup:
    def unknown(entry: Mapping[str, Any]) -> object:
        reasons = tag("small", "; ".join(entry.get("reasons", ())))
        return join([tag("code", entry["operator"]), f" ({entry['nodes']} nodes)", reasons])

    def kept(entry: Mapping[str, Any]) -> object:
        return join([tag("code", entry["name"]), f" {entry['operator']}: {entry['reason']}"])

    parts: list[object] = [tag("h2", "What to know")]
    for title, entries, item in (
        ("Let through although their legality is unknown", port["unknowns_allowed"], unknown),
        ("Kept in float", port["kept_in_float"], kept),
        ("Not in the graph", port["not_in_graph"], lambda name: tag("code", name)),
    ):
        parts += [tag("h3", title), list_of(entries, item) if entries else tag("p", "Nothing.", class_="soft")]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(port["tools"].items()))
    parts += [tag("h3", "Made with"), tag("p", versions, class_="soft")]
    return tag("section", *parts)
