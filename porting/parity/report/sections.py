"""Parts of the report that are there only when there is something to say, and the folded details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from porting.parity.report.markup import Markup, join, tag
from porting.parity.report.numbers import count, scientific
from porting.parity.report.tables import number, outputs_table, table

Document = Mapping[str, Any]
_MOST = 20


def overflows(parity: Document) -> Markup | None:
    """Layers that are finite in the reference only, in the order of the port: the first one is where it starts."""
    entries: Sequence[Document] = parity["overflows"]
    if not entries:
        return None
    rows = [
        [
            tag("td", tag("code", o["place"]), tag("small", o["name"]) if o["place"] != o["name"] else None),
            o["dtype"],
            number(o["elements"], count(o["elements"])),
            number(o["reference_max"], scientific(o["reference_max"])),
            number(o["limit"], scientific(o["limit"])),
            "here" if o["starts_here"] else "follows an earlier one",
        ]
        for o in entries[:_MOST]
    ]
    rest = len(entries) - len(rows)
    head = ["layer", "dtype", "elements", "largest in the reference", "limit of the format", "starts"]
    return tag(
        "section",
        tag("h2", "Beyond the range of the format"),
        table(head, rows, numeric=(2, 3, 4)),
        tag("p", f"and {count(rest)} more in parity.json", class_="soft") if rest else None,
    )


def interpreter(
    parity: Document, verdicts: Mapping[str, str], required: Mapping[str, Mapping[str, str]]
) -> Markup | None:
    """Whether the layer reference itself is right; there only when an independent reference was given."""
    if not parity["interpreter"]:
        return None
    return tag(
        "section",
        tag("h2", "Layer reference: is it right about the source?"),
        tag("p", f"The interpreter on the source against {parity['reference']}.", class_="soft"),
        outputs_table(parity["interpreter"], verdicts, required),
    )


def language(output: Document) -> Markup | None:
    """An output that holds logits over the next token, as a language model."""
    if "kl_mean" not in output:
        return None
    tail = f", 99 % of them at most {scientific(output['kl_p99'])}" if "kl_p99" in output else ""
    return tag(
        "p",
        tag("code", output["name"]),
        f" over {count(output['positions'])} tokens: divergence {scientific(output['kl_mean'])} nats a token (largest "
        f"{scientific(output['kl_max'])}{tail}), the same likeliest token at {output['top1_agreement']:.2%}, "
        f"perplexity {output['perplexity']:.5g} where the reference has {output['perplexity_reference']:.5g}.",
    )


def layer_limit(parity: Document) -> tuple[float | None, str]:
    """The relative L2 drawn into the chart: the limit on a layer, else the one on the outputs, with its text."""
    for question, text in (("isolated", "budget of a layer"), ("outputs", "budget of the outputs")):
        lines = [line for line in parity["budget"]["limits"] if line["question"] == question and line["name"] == "*"]
        for line in reversed(lines):
            if line["metric"] == "rel_l2":
                return line["max"], f"{text}, {scientific(line['max'])}"
            if line["metric"] == "sqnr_db":
                return 10 ** (-line["min"] / 20), f"{text}, {line['min']:g} dB"
    return None, ""


def details(parity: Document, port: Document) -> Markup:
    """Limits with their sources, passes, and digests, folded."""
    budget = parity["budget"]
    limits = [
        [
            line["question"],
            f"{line['metric'].replace('_', ' ')} {'≥' if 'min' in line else '≤'} {line.get('min', line.get('max')):g}",
            line["scheme"],
            line["dtype"],
            line["name"],
            join([line["source"], tag("small", "the user's budget") if line["user"] else None]),
        ]
        for line in budget["limits"]
    ]
    head = ["question", "limit", "scheme", "dtype", "name", "where the number comes from"]
    files = [[tag("code", name), tag("code", digest)] for name, digest in sorted(port["files"].items())]
    return tag(
        "section",
        tag("h2", "Details"),
        _folded(f"Limits in force ({budget['file'] or 'defaults'})", table(head, limits)),
        _folded("Passes, in order", tag("p", join([tag("code", name) for name in port["passes"]], " → "))),
        _folded("Files and digests", table(["file", "digest"], files)) if files else None,
    )


def _folded(heading: str, content: Markup) -> Markup:
    return tag("details", tag("summary", heading), content)
