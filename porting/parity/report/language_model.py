"""The report's sections on a language model: routing of its experts, and its decoder layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porting.parity.report.heat_map import heat_map
from porting.parity.report.markup import Markup, tag
from porting.parity.report.numbers import count, decibel, scientific
from porting.parity.report.tables import badge, number, table

Document = Mapping[str, Any]
_WORST = 10


def routing(parity: Document, verdicts: Mapping[str, str]) -> Markup | None:
    """What the routers chose; None for a model without experts. verdicts: by router module, and of ``model``."""
    routed = parity.get("routing")
    if not routed or not routed["routers"]:
        return None
    routers = routed["routers"]
    head = ["router", "verdict", "decisions", "differ", "near ties", "faults", "error of the logits", "smallest margin"]
    rows = [
        [
            tag("code", r["module"]),
            badge(verdicts[r["module"]]) if r["module"] in verdicts else "",
            number(r["decisions"], count(r["decisions"])),
            number(r["differ"], count(r["differ"])),
            number(r["near_ties"], count(r["near_ties"])),
            number(r["faults"], count(r["faults"])),
            number(r["logits_rel_l2"], "–" if r["logits_rel_l2"] is None else scientific(r["logits_rel_l2"])),
            number(r["margin_min"], "–" if r["margin_min"] is None else scientific(r["margin_min"])),
        ]
        for r in routers
    ]
    return tag(
        "section",
        tag("h2", "Routing: which experts the tokens go to"),
        tag("p", _sentence(parity), class_="soft"),
        heat_map(routers),
        tag("p", "Share of tokens by expert; a dot marks flips, a hatched frame an expert that no token reached.",
            class_="legend soft"),
        table(head, rows, numeric=range(2, 8)),
        _flips(routers),
        _untested(routers),
    )  # fmt: skip


def _sentence(parity: Document) -> str:
    r = parity["routing"]
    text = (
        f"{count(r['decisions'])} decisions, compared as sets: {r['near_ties']} fall otherwise at a near tie "
        f"({r['near_tie_fraction']:.2%}), {r['faults']} without that excuse."
    )
    replayed = [o for o in parity["outputs"] if o.get("replayed")]
    for output in replayed:
        text += (
            f" Against the reference with the port's experts, {output['name']} diverge by "
            f"{scientific(output['replayed']['kl_mean'])} nats instead of {scientific(output['kl_mean'])}."
        )
    if r["settled_by"] == "replay":
        text += " Only flips broke the budget of the outputs, so they are judged by that run."
    return text


def _flips(routers: list[Document]) -> Markup | None:
    rows = [
        [
            tag("code", router["module"]),
            flip["kind"].replace("_", " "),
            f"batch {flip['sample'] + 1}, row {flip['row'] + 1}, token {flip['position'] + 1}",
            ", ".join(map(str, flip["lost"])),
            ", ".join(map(str, flip["gained"])),
            number(flip["gap"], scientific(flip["gap"])),
            number(flip["reach"], scientific(flip["reach"])),
        ]
        for router in routers
        for flip in router["flips"]
    ]
    if not rows:
        return None
    head = ["router", "kind", "where", "experts lost", "gained", "gap of the scores", "reach of rounding"]
    return tag("details", tag("summary", "Some of the flips, faults first"), table(head, rows, numeric=(5, 6)))


def _untested(routers: list[Document]) -> Markup | None:
    lines = [
        tag("li", tag("code", r["module"]), f" {', '.join(map(str, r['untested']))}") for r in routers if r["untested"]
    ]
    if not lines:
        return tag("p", "Every expert was reached by a token.", class_="soft")
    return tag("div", tag("h3", "Experts that no token reached: untested"), tag("ul", *lines))


def decoder_layers(parity: Document) -> Markup | None:
    """The worst decoder layers; None for other models."""
    layers = parity.get("decoder_layers") or []
    if not layers:
        return None
    ranked = sorted(layers, key=lambda layer: -layer["isolated"]["rel_l2"])
    rows = [
        [
            tag("code", layer["module"]),
            *[
                number(layer[view]["rel_l2"], scientific(layer[view]["rel_l2"]))
                for view in ("isolated", "forced", "accumulated")
            ],
            number(layer["isolated"]["sqnr_db"], decibel(layer["isolated"]["sqnr_db"])),
            number(layer["flips"], count(layer["flips"])),
        ]
        for layer in ranked[:_WORST]
    ]
    head = ["decoder layer", "isolated", "with the port's experts", "accumulated", "isolated dB", "flips by itself"]
    shown = f"The {_WORST} worst of {len(layers)}" if len(layers) > _WORST else f"All {len(layers)}"
    return tag(
        "section",
        tag("h2", "Decoder layers"),
        tag("p", f"{shown}, by the relative L2 error of what a layer hands over when it is fed the reference's values.",
            class_="soft"),
        table(head, rows, numeric=range(1, 6)),
    )  # fmt: skip
