"""The tables of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from porting.parity.report.markup import Markup, join, tag
from porting.parity.report.numbers import cosine, count, decibel, nonfinite, scientific, steps

Row = Mapping[str, Any]


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Iterable[int] = (), **attributes: object
) -> Markup:
    """A table; numeric: columns that are aligned right. A cell that is Markup of a ``td`` stands as it is."""
    right = frozenset(numeric)
    header = tag(
        "tr", *[tag("th", text, class_="n" if i in right else None, scope="col") for i, text in enumerate(head)]
    )
    body = [
        tag("tr", *[c if _is_cell(c) else tag("td", c, class_="n" if i in right else None) for i, c in enumerate(row)])
        for row in rows
    ]
    return tag("div", tag("table", tag("thead", header), tag("tbody", *body), **attributes), class_="scroll")


def number(value: float | int | None, text: str) -> Markup:
    """A right-aligned cell that sorts by its value."""
    return tag("td", text, class_="n", data_v=f"{value:.9g}" if value is not None else "-1e99")


def badge(verdict: str) -> Markup:
    """A verdict as a coloured word."""
    return tag("span", verdict.replace("_", " "), class_=f"badge {verdict}")


def outputs_table(
    outputs: Sequence[Row], verdicts: Mapping[str, str], required: Mapping[str, Mapping[str, str]]
) -> Markup:
    """Metrics of graph outputs. verdicts: by name; required: limit text by name and metric, shown under the value."""

    def cell(output: Row, metric: str, text: str, key: str = "") -> Markup:
        limit = required.get(output["name"], {}).get(key or metric)
        shown = join([text, tag("small", limit)]) if limit else text
        return tag("td", shown, class_="n", data_v=output[metric])

    rows = [
        [
            tag("td", tag("code", o["name"])),
            badge(verdicts[o["name"]]) if o["name"] in verdicts else "",
            o["dtype"],
            cell(o, "cosine", cosine(o["cosine"])),
            cell(o, "sqnr_db", decibel(o["sqnr_db"])),
            cell(o, "rel_l2", scientific(o["rel_l2"])),
            cell(o, "max_abs", scientific(o["max_abs"])),
            number(o["max_ulp"], steps(o["max_ulp"])),
            number(o["mismatches"], count(o["mismatches"])),
            number(nonfinite(o), count(nonfinite(o))),
        ]
        for o in outputs
    ]
    head = [
        "output",
        "verdict",
        "dtype",
        "cosine",
        "SQNR dB",
        "relative L2",
        "max abs",
        "max ULP",
        "integers off",
        "not finite",
    ]
    return table(head, rows, numeric=range(3, 10))


def layers_table(layers: Sequence[Row], failed: Mapping[str, str]) -> Markup:
    """Every layer. failed: verdict by layer name, for those that are not ``pass``."""
    rows = []
    for index, layer in enumerate(layers):
        isolated, accumulated = layer["isolated"], layer["accumulated"]
        rows.append(
            tag(
                "tr",
                tag("td", index + 1, class_="n", data_v=index + 1),
                tag("td", *_name(layer), data_v=layer["name"]),
                tag("td", _operators(layer)),
                tag("td", layer["dtype"]),
                *_errors(isolated),
                *_errors(accumulated),
                number(accumulated["max_abs"], scientific(accumulated["max_abs"])),
                number(nonfinite(accumulated), count(nonfinite(accumulated)) if nonfinite(accumulated) else "–"),
                id=f"layer-{index + 1}",
                class_=failed.get(layer["name"]),
            )
        )
    groups = tag(
        "tr", tag("th", "", colspan=4), tag("th", "isolated", colspan=2, class_="group isolated-key"),
        tag("th", "accumulated", colspan=4, class_="group accumulated-key"),
    )  # fmt: skip
    names = ["#", "layer", "operator", "dtype", "rel. L2", "SQNR dB", "rel. L2", "SQNR dB", "max abs", "not finite"]
    right = {0, 4, 5, 6, 7, 8, 9}
    header = tag("tr", *[tag("th", n, class_="n" if i in right else None, scope="col") for i, n in enumerate(names)])
    return tag(
        "div",
        tag("table", tag("thead", groups, header), tag("tbody", *rows), id="layers", class_="sortable"),
        class_="scroll tall",
    )


def contract(entry: Row) -> str:
    """``bit-exact``, ``2 ULP``, ``tolerance 1e-6``."""
    if entry["kind"] == "exact":
        return "bit-exact"
    return f"{entry['value']:g} ULP" if entry["kind"] == "ulp" else f"tolerance {entry['value']:g}"


def rewrites_table(rewrites: Sequence[Row]) -> Markup:
    """Rules with their contracts and how often they were applied."""
    rows = [
        [
            tag("code", r["rule"]),
            number(r["count"], count(r["count"])),
            tag("span", contract(r["contract"]), class_=f"contract {r['contract']['kind']}"),
            r["contract"]["reason"],
            _shortened(r.get("sources", ()), 4),
        ]
        for r in rewrites
    ]
    return table(["rule", "applied", "contract", "reason", "source values"], rows, numeric=[1])


def operators_table(before: Mapping[str, int], after: Mapping[str, int]) -> Markup:
    """Node counts by operator, with bars on one scale."""
    most = max([*before.values(), *after.values()], default=1)

    def bar(value: int, kind: str) -> Markup:
        width = f"width:{100 * value / most:.1f}%"
        return tag("td", tag("div", tag("i", style=width, class_=kind), class_="bar") if value else "")

    names = sorted({*before, *after}, key=lambda name: (-max(before.get(name, 0), after.get(name, 0)), name))
    rows = []
    for name in names:
        old, new = before.get(name, 0), after.get(name, 0)
        change = new - old
        rows.append(
            [
                tag("code", name),
                number(old, count(old) if old else "–"),
                bar(old, "old"),
                number(new, count(new) if new else "–"),
                bar(new, "new"),
                number(change, f"{change:+d}".replace("-", "\u2212") if change else ""),
            ]
        )
    return table(["operator", "before", "", "after", "", "change"], rows, numeric=[1, 3, 5], class_="operators")


def list_of(entries: Sequence[Any], item: Callable[[Any], object]) -> Markup:
    """A bulleted list."""
    return tag("ul", *[tag("li", item(entry)) for entry in entries])


def _is_cell(cell: object) -> bool:
    return isinstance(cell, Markup) and cell.startswith("<td")


def _errors(metrics: Row | None) -> tuple[Markup, Markup]:
    if metrics is None:
        return number(None, "–"), number(None, "–")
    return (
        number(metrics["rel_l2"], scientific(metrics["rel_l2"])),
        number(metrics["sqnr_db"], decibel(metrics["sqnr_db"])),
    )


def _name(layer: Row) -> list[object]:
    first = layer["module"] or layer["node"] or layer["name"]
    parts: list[object] = [tag("code", first)]
    details = [layer["name"]] if layer["name"] != first else []
    if layer["class"]:
        details.insert(0, layer["class"])
    if layer["file"]:
        details.append(f"{layer['file']}:{layer['line']}")
    if details:
        parts.append(tag("small", " \u00b7 ".join(details)))
    return parts


def _operators(layer: Row) -> Markup:
    same = layer["operator"] == layer["ported_operator"]
    text = layer["operator"] if same else f"{layer['operator']} \u2192 {layer['ported_operator']}"
    rules = tag("small", ", ".join(layer["rules"])) if layer["rules"] else None
    return join([text, rules])


def _shortened(names: Sequence[str], most: int) -> Markup:
    shown = join([tag("code", name) for name in names[:most]], ", ")
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return tag("span", shown, rest, title=", ".join(names) if rest else None)
