"""The error of every layer as one SVG: relative L2 on a log scale, its SQNR on the other side of the same axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from porting.parity.report.markup import Markup, join, tag
from porting.parity.report.numbers import decibel, nonfinite, scientific

_WIDTH, _HEIGHT = 1120.0, 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 1066.0, 18.0, 300.0
_EXACT_TOP, _EXACT_BAND = 308.0, 18.0
"""The strip below the scale where layers without any difference lie."""
_LOWEST, _HIGHEST = -9, 2


def layer_chart(layers: Sequence[Mapping[str, Any]], limit: float | None, limit_text: str) -> Markup:
    """Isolated and accumulated error of the layers in the order of the port.

    limit: the relative L2 of the budget line, None without one; limit_text: what it is.
    """
    low, high = _range(layers, limit)
    step = (_RIGHT - _LEFT) / max(len(layers), 1)
    radius = max(1.3, min(4.0, step * 0.32))
    xs = [_LEFT + step * (index + 0.5) for index in range(len(layers))]

    def y(value: float) -> float:
        if value <= 0:
            return _EXACT_TOP + _EXACT_BAND / 2
        share = (max(low, min(high, math.log10(value))) - low) / (high - low)
        return _BOTTOM - share * (_BOTTOM - _TOP)

    return tag(
        "svg",
        tag("title", "Error of each layer"),
        tag("desc", "Relative L2 error of each layer, isolated and accumulated, in the order of the port"),
        _axes(low, high, y),
        _budget_line(limit, limit_text, y),
        _accumulated(layers, xs, y),
        _isolated(layers, xs, y, radius),
        _bad(layers, xs),
        _hits(layers, xs, step),
        _ticks(len(layers), xs),
        view_box=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        class_="chart",
    )


def _range(layers: Sequence[Mapping[str, Any]], limit: float | None) -> tuple[int, int]:
    """Whole decades around everything that is drawn."""
    values = [m["rel_l2"] for layer in layers for m in (layer["isolated"], layer["accumulated"]) if m]
    logs = [math.log10(v) for v in (*values, limit or 0.0) if v > 0] or [-7.0, -5.0]
    low = max(_LOWEST, math.floor(min(logs) - 0.1))
    high = min(_HIGHEST, math.ceil(max(logs) + 0.1))
    return (low, high) if high - low >= 2 else (low - 1, low + 1)


def _axes(low: int, high: int, y: Any) -> Markup:
    parts: list[Markup] = [
        tag("rect", x=_LEFT, y=_EXACT_TOP, width=_RIGHT - _LEFT, height=_EXACT_BAND, class_="exact-band"),
        tag("text", "exact", x=_LEFT - 8, y=_EXACT_TOP + _EXACT_BAND / 2 + 4, text_anchor="end", class_="tick"),
    ]
    for decade in range(low, high + 1):
        height = f"{y(10.0**decade):.1f}"
        label = join(["10", tag("tspan", f"{decade}".replace("-", "\u2212"), dy="-5", font_size="9")])
        parts += [
            tag("line", x1=_LEFT, x2=_RIGHT, y1=height, y2=height, class_="grid"),
            tag("text", label, x=_LEFT - 8, y=height, dy="4", text_anchor="end", class_="tick"),
            tag("text", f"{-20 * decade:+d}".replace("+0", "0").replace("+", "").replace("-", "\u2212") + " dB",
                x=_RIGHT + 8, y=height, dy="4", class_="tick"),
        ]  # fmt: skip
    return tag("g", *parts)


def _budget_line(limit: float | None, text: str, y: Any) -> Markup | None:
    if limit is None:
        return None
    height = y(limit)
    label_y = height - 6 if height - _TOP > 14 else height + 14
    return tag(
        "g",
        tag("line", x1=_LEFT, x2=_RIGHT, y1=f"{height:.1f}", y2=f"{height:.1f}", class_="limit"),
        tag("text", text, x=_RIGHT - 6, y=f"{label_y:.1f}", text_anchor="end", class_="limit-text"),
    )


def _accumulated(layers: Sequence[Mapping[str, Any]], xs: Sequence[float], y: Any) -> Markup:
    points = [f"{x:.1f},{y(layer['accumulated']['rel_l2']):.1f}" for x, layer in zip(xs, layers, strict=True)]
    if len(points) == 1:
        x, height = points[0].split(",")
        return tag("circle", cx=x, cy=height, r="4", class_="accumulated-dot")
    return tag("polyline", points=" ".join(points), class_="accumulated")


def _isolated(layers: Sequence[Mapping[str, Any]], xs: Sequence[float], y: Any, radius: float) -> Markup:
    dots = [
        tag("circle", cx=f"{x:.1f}", cy=f"{y(layer['isolated']['rel_l2']):.1f}", r=f"{radius:.1f}")
        for x, layer in zip(xs, layers, strict=True)
        if layer["isolated"]
    ]
    return tag("g", *dots, class_="isolated")


def _bad(layers: Sequence[Mapping[str, Any]], xs: Sequence[float]) -> Markup | None:
    marks = [
        tag("path", d=f"M{x - 4:.1f} {_TOP - 9}l8 8m0 -8l-8 8")
        for x, layer in zip(xs, layers, strict=True)
        if nonfinite(layer["accumulated"])
    ]
    return tag("g", *marks, class_="bad-mark") if marks else None


def _hits(layers: Sequence[Mapping[str, Any]], xs: Sequence[float], step: float) -> Markup:
    """One invisible column a layer: names it on hover and leads to its row of the table."""
    columns = []
    for index, (x, layer) in enumerate(zip(xs, layers, strict=True)):
        column = tag(
            "rect", tag("title", _hover(layer)), x=f"{x - step / 2:.1f}", y=_TOP - 12, width=f"{step:.2f}",
            height=_EXACT_TOP + _EXACT_BAND - _TOP + 12,
        )  # fmt: skip
        columns.append(tag("a", column, href=f"#layer-{index + 1}", tabindex="-1"))
    return tag("g", *columns, class_="hits")


def _hover(layer: Mapping[str, Any]) -> str:
    lines = [
        layer["module"] or layer["node"] or layer["name"],
        f"{layer['operator']} \u2192 {layer['ported_operator']}",
    ]
    if layer["file"]:
        lines.append(f"{layer['file']}:{layer['line']}")
    for view in ("isolated", "accumulated"):
        if metrics := layer[view]:
            text = f"{view}: {scientific(metrics['rel_l2'])} ({decibel(metrics['sqnr_db'])} dB)"
            if bad := nonfinite(metrics):
                text += f", {bad} not finite"
            lines.append(text.replace("(exact dB)", "(exact)"))
    return "\n".join(lines)


def _ticks(total: int, xs: Sequence[float]) -> Markup:
    """Layer numbers below the scale, about ten of them."""
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if total / n <= 14)
    numbers = [
        tag("text", index + 1, x=f"{x:.1f}", y=_EXACT_TOP + _EXACT_BAND + 14, text_anchor="middle", class_="tick")
        for index, x in enumerate(xs)
        if (index + 1) % every == 0 or (index == 0 and every > 1)
    ]
    middle = (_LEFT + _RIGHT) / 2
    title = tag("text", "layer, in the order of the port", x=middle, y=_HEIGHT - 6, text_anchor="middle", class_="tick")
    return tag("g", *numbers, title)
