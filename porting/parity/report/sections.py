"""The parts of the report, each a piece of markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from porting.parity.report.chart import layer_chart
from porting.parity.report.markup import Markup, join, tag
from porting.parity.report.numbers import count, decibel, met, scientific
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

Document = Mapping[str, Any]

_MEANING = {
    "pass": "Every limit holds.",
    "fail": "At least one limit does not hold.",
    "ambiguous": "There are differences that are no proof of a fault.",
    "not_measured": "No statement about parity can be made.",
}
_MOST_FINDINGS = 12
_SEVERITY = ("pass", "not_measured", "ambiguous", "fail")


def title(port: Document) -> Markup:
    """The source's own name, without its folders."""
    return join([port["source"]["path"].rstrip("/").rsplit("/", 1)[-1]])


def header(parity: Document, port: Document) -> Markup:
    """Verdict, model and target."""
    samples = f"{count(parity['samples'])} {'sample' if parity['samples'] == 1 else 'samples'}, {parity['inputs']}"
    digest = port["source"]["digest"]
    facts: list[tuple[str, object]] = [
        ("backend", parity["backend"]),
        ("surface", parity["surface"]),
        ("scheme", parity["scheme"]),
        ("dtype", parity["dtype"]),
        ("numerics", parity["numerics"]),
        ("inputs", samples),
        ("reference", parity["reference"]),
        ("source digest", tag("code", digest[:19] + "…", title=digest)),
    ]
    grid = tag("dl", *[tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts")
    return tag(
        "header",
        tag("p", "parity report", class_="kind"),
        tag("div", tag("h1", title(port)), badge(parity["verdict"]), class_="headline"),
        tag("p", _MEANING[parity["verdict"]], class_="meaning"),
        grid,
    )


def summary(parity: Document, port: Document) -> Markup:
    """A few numbers that say most."""
    tiles = []
    if parity["outputs"]:
        worst = min(parity["outputs"], key=lambda output: output["sqnr_db"])
        value = decibel(worst["sqnr_db"])
        note = (
            f"SQNR of {worst['name']}, the worst output" if len(parity["outputs"]) > 1 else f"SQNR of {worst['name']}"
        )
        tiles.append(
            _tile("scheme error", value if value == "exact" else f"{value} dB", note, _verdict(parity, "outputs"))
        )
    fidelity = parity["fidelity"]
    if fidelity["outputs"]:
        worst_l2 = max(output["rel_l2"] for output in fidelity["outputs"])
        tiles.append(
            _tile("port fidelity", scientific(worst_l2), f"relative L2 against {fidelity['against'].split(',')[0]}",
                  _verdict(parity, "fidelity"))
        )  # fmt: skip
    else:
        tiles.append(_tile("port fidelity", "–", "not measured", "not_measured"))
    judged = {c["subject"] for c in parity["checks"] if c["question"] == "isolated"}
    over = {c["subject"] for c in parity["checks"] if c["question"] == "isolated" and c["verdict"] == "fail"}
    if judged:
        tiles.append(
            _tile("layers over budget", f"{count(len(over))} of {count(len(judged))}", "each fed reference inputs",
                  _verdict(parity, "isolated"))
        )  # fmt: skip
    else:
        tiles.append(_tile("layers", count(len(parity["layers"])), "compared, without a limit of their own", ""))
    operators = port["operators"]
    before, after = sum(operators["before"].values()), sum(operators["after"].values())
    kinds = f"{len(operators['before'])} → {len(operators['after'])} kinds of operators"
    tiles.append(_tile("nodes", f"{count(before)} → {count(after)}", kinds, ""))
    applied = sum(rewrite["count"] for rewrite in port["rewrites"])
    tiles.append(_tile("rewrites", count(applied), f"by {len(port['rewrites'])} rules, each with a contract", ""))
    return tag("div", *tiles, class_="tiles")


def findings(parity: Document) -> Markup:
    """Why the verdict is not pass: the failing checks first, overflows with their origin."""
    if parity["verdict"] == "pass":
        return Markup("")
    open_ = [check for check in parity["checks"] if check["verdict"] != "pass"]
    open_.sort(key=lambda check: -_SEVERITY.index(check["verdict"]))
    unlisted = parity["reasons"][: len(parity["reasons"]) - len(open_)]
    rows = [
        [
            badge(check["verdict"]),
            check["question"],
            tag("code", check["subject"]),
            check["metric"].replace("_", " "),
            check["required"],
            met(check["met"]),
            join([check["where"], tag("small", check["source"]) if check["source"] else None]),
        ]
        for check in open_[:_MOST_FINDINGS]
    ]
    rest = len(open_) - len(rows)
    return _section(
        "findings",
        "Why",
        list_of(unlisted, str) if unlisted else None,
        table(["", "question", "value", "metric", "required", "met", "where"], rows, numeric=[5]) if rows else None,
        tag("p", f"{count(rest)} more in the tables below.", class_="note") if rest > 0 else None,
        _overflows(parity["overflows"]),
    )


def outputs(parity: Document) -> Markup:
    """Scheme error at the graph outputs, and the same with exact numerics where that differs."""
    parts: list[object] = [
        tag("p", f"The ported model ({parity['numerics']} numerics) against {parity['reference']}.", class_="note"),
        outputs_table(parity["outputs"], _verdicts(parity, "outputs"), _required(parity, "outputs")),
    ]
    return _section("outputs", "Outputs", *parts)


def questions(parity: Document) -> Markup:
    """Fidelity, the gate of the interpreter, exact numerics, and the numerics line by line."""
    parts: list[object] = []
    fidelity = parity["fidelity"]
    parts.append(tag("h3", "Port fidelity ", tag("small", "does the port compute the scheme it claims?")))
    if fidelity["not_measured"] is not None:
        parts.append(tag("p", badge("not_measured"), f" {fidelity['not_measured']}"))
    else:
        parts.append(tag("p", f"Simulation with exact numerics against {fidelity['against']}.", class_="note"))
        parts.append(outputs_table(fidelity["outputs"], _verdicts(parity, "fidelity"), _required(parity, "fidelity")))
    if fidelity["codes"]:
        parts.append(_codes(fidelity["codes"]))
    if parity["interpreter"]:
        parts.append(tag("h3", "Layer reference ", tag("small", "is the interpreter right about the source?")))
        parts.append(tag("p", f"Interpreter on the source against {parity['reference']}.", class_="note"))
        parts.append(
            outputs_table(parity["interpreter"], _verdicts(parity, "reference"), _required(parity, "reference"))
        )
    parts.append(tag("h3", "Chip arithmetic ", tag("small", "what does each line of the backend's numerics change?")))
    parts.append(_numerics(parity))
    return _section("questions", "Fidelity and arithmetic", *parts)


def layers(parity: Document) -> Markup:
    """Chart and table of all layers."""
    entries = parity["layers"]
    if not entries:
        return Markup("")
    failed: dict[str, str] = {}
    for check in parity["checks"]:
        if check["question"] in ("isolated", "overflow") and check["verdict"] != "pass":
            failed[check["subject"]] = check["verdict"]
    limit, text = _layer_limit(parity)
    legend = tag(
        "p",
        tag("span", "isolated", class_="isolated-key"), " fed reference inputs: the layer's own error. ",
        tag("span", "accumulated", class_="accumulated-key"), " the whole port: its own and all before it.",
        tag("span", " × not finite", class_="bad-key") if any(_bad(layer) for layer in entries) else None,
        class_="note legend",
    )  # fmt: skip
    search = tag(
        "input", type="search", id="filter", placeholder="filter layers", aria_label="filter layers", hidden=True
    )
    return _section(
        "per-layer", "Layers", legend, layer_chart(entries, limit, text), search, layers_table(entries, failed)
    )


def rewriting(port: Document) -> Markup:
    """What was done to the graph."""
    operators = port["operators"]
    rules = (
        rewrites_table(port["rewrites"]) if port["rewrites"] else tag("p", "No rewrites were applied.", class_="note")
    )
    return _section(
        "rewriting",
        "What was rewritten",
        rules,
        tag("h3", "Operators"),
        operators_table(operators["before"], operators["after"]),
        tag("p", "Passes: ", join([tag("code", name) for name in port["passes"]], ", "), class_="note"),
    )


def exceptions(port: Document) -> Markup:
    """Unknown legality let through, parts kept in float, parts that are not in the graph."""
    parts: list[object] = []
    if port["unknowns_allowed"]:
        rows = [
            [tag("code", u["operator"]), number(u["nodes"], count(u["nodes"])), "; ".join(u.get("reasons", ()))]
            for u in port["unknowns_allowed"]
        ]
        parts += [
            tag("h3", "Legality unknown, let through"),
            table(["operator", "nodes", "reasons"], rows, numeric=[1]),
        ]
    if port["kept_in_float"]:
        rows = [
            [
                tag("code", k["name"]),
                k["operator"],
                join([k["reason"], tag("small", k["source"]) if k.get("source") else None]),
            ]
            for k in port["kept_in_float"]
        ]
        parts += [tag("h3", "Kept in float"), table(["layer", "operator", "why"], rows)]
    if port["not_in_graph"]:
        parts += [tag("h3", "Not in the graph"), list_of(port["not_in_graph"], lambda name: tag("code", name))]
    return _section("exceptions", "Exceptions", *parts) if parts else Markup("")


def consumer(port: Document) -> Markup:
    """The exact next command."""
    command = port["consumer"]
    if command == "none known":
        return _section("next", "Next", tag("p", "No consumer of this port is known.", class_="note"))
    return _section("next", "Next", tag("pre", tag("code", command)))


def details(parity: Document, port: Document) -> Markup:
    """Budget with sources, files with digests, versions: folded."""
    budget = parity["budget"]
    limits = [
        [
            m["question"],
            join([m["metric"].replace("_", " "), f" {'≥' if 'min' in m else '≤'} {m.get('min', m.get('max')):g}"]),
            m["scheme"], m["dtype"], tag("code", m["name"]),
            join([m["source"], tag("small", "the user's budget") if m["user"] else None]),
        ]
        for m in budget["limits"]
    ]  # fmt: skip
    files = [[tag("code", name), tag("code", digest)] for name, digest in sorted(port["files"].items())]
    tools = [[name, version] for name, version in sorted(port["tools"].items())]
    return _section(
        "details",
        "Details",
        _folded(
            f"Budget ({budget['file'] or 'defaults'})",
            table(["question", "limit", "scheme", "dtype", "name", "source"], limits),
        ),
        _folded("Files", table(["file", "digest"], files)) if files else None,
        _folded("Versions", table(["distribution", "version"], tools)) if tools else None,
    )


def _section(name: str, heading: str, *parts: object) -> Markup:
    return tag("section", tag("h2", heading), *parts, id=name)


def _folded(heading: str, content: Markup) -> Markup:
    return tag("details", tag("summary", heading), content)


def _tile(label: str, value: str, note: str, verdict: str) -> Markup:
    return tag("div", tag("b", label), tag("strong", value), tag("small", note), class_=f"tile {verdict}".strip())


def _verdict(parity: Document, question: str) -> str:
    return max(
        (c["verdict"] for c in parity["checks"] if c["question"] == question),
        key=_SEVERITY.index,
        default="not_measured",
    )


def _verdicts(parity: Document, question: str) -> dict[str, str]:
    """The gravest verdict by subject."""
    found: dict[str, str] = {}
    for check in parity["checks"]:
        if check["question"] == question:
            before = found.get(check["subject"], "pass")
            found[check["subject"]] = max(before, check["verdict"], key=_SEVERITY.index)
    return found


def _required(parity: Document, question: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for check in parity["checks"]:
        if check["question"] == question and check["required"][:2] in (">=", "<="):
            found.setdefault(check["subject"], {})[check["metric"]] = _pretty(check["required"])
    return found


def _pretty(required: str) -> str:
    return required.replace(">=", "≥").replace("<=", "≤")


def _layer_limit(parity: Document) -> tuple[float | None, str]:
    """The line drawn into the chart: the isolated limit, else the limit on the outputs."""
    for question, text in (("isolated", "isolated limit"), ("outputs", "limit on the outputs")):
        for line in parity["budget"]["limits"]:
            if line["question"] == question and line["name"] == "*":
                if line["metric"] == "rel_l2":
                    return line["max"], f"{text} {line['max']:g}"
                if line["metric"] == "sqnr_db":
                    return 10 ** (-line["min"] / 20), f"{text} {line['min']:g} dB"
    return None, ""


def _bad(layer: Document) -> bool:
    return bool(layer["accumulated"]["nan_count"] or layer["accumulated"]["inf_count"])


def _overflows(entries: Sequence[Document]) -> Markup | None:
    if not entries:
        return None
    rows = [
        [
            tag("code", o["name"]),
            o["place"],
            o["dtype"],
            number(o["elements"], count(o["elements"])),
            number(o["reference_max"], scientific(o["reference_max"])),
            number(o["limit"], scientific(o["limit"])),
            "here" if o["starts_here"] else "follows an earlier one",
        ]
        for o in entries[:_MOST_FINDINGS]
    ]
    heading = tag("h3", "Beyond the range of the format ", tag("small", "first one first"))
    head = ["layer", "place", "dtype", "elements", "reference max", "limit", "starts"]
    return join([heading, table(head, rows, numeric=[3, 4, 5])])


def _codes(codes: Iterable[Document]) -> Markup:
    entries = list(codes)
    total, ties, wrong = (sum(c[key] for c in entries) for key in ("count", "ties", "mismatches"))
    text = (
        f"{count(len(entries))} quantizers, {count(total)} integer codes: {count(wrong)} differ, "
        f"{count(ties)} more lie on the border between two codes."
    )
    return tag("p", text, class_="note")


def _numerics(parity: Document) -> Markup:
    if not parity["numerics_lines"]:
        return tag("p", "The backend's numerics do not differ from the exact meaning of the operators.", class_="note")
    rows = [
        [
            tag("td", tag("code", f"{line['field']} = {line['value']}")),
            tag("code", o["name"]),
            number(o["rel_l2"], scientific(o["rel_l2"])),
            number(o["max_abs"], scientific(o["max_abs"])),
            number(o["sqnr_db_exact"], decibel(o["sqnr_db_exact"])),
            number(o["sqnr_db"], decibel(o["sqnr_db"])),
            join([line["source"], tag("small", line["evidence"])]),
        ]
        for line in parity["numerics_lines"]
        for o in line["outputs"]
    ]
    head = ["line", "output", "rel. L2 to exact", "max abs to exact", "SQNR dB exact", "SQNR dB with it", "source"]
    return table(head, rows, numeric=range(2, 6))
