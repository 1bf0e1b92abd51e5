"""Where the tokens went: one row a router, one column an expert, as one SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from porting.parity.report.markup import Markup, tag

_WIDTH, _LEFT, _RIGHT, _TOP = 1120.0, 210.0, 1066.0, 30.0
_ROW = 18.0
_DARKEST = 2.5
"""Times an even share of the tokens; whatever is above looks alike."""


def heat_map(routers: Sequence[Mapping[str, Any]]) -> Markup:
    """Share of the port's tokens by router and expert, flips and untested experts marked.

    routers: entries of ``routing.routers`` in ``parity.json``.
    """
    most = max(router["experts"] for router in routers)
    step = (_RIGHT - _LEFT) / most
    height = _TOP + _ROW * len(routers) + 34
    rows = [_row(router, _TOP + _ROW * index, step) for index, router in enumerate(routers)]
    return tag(
        "svg",
        tag("title", "Tokens by router and expert"),
        tag("desc", "Share of tokens that each router sends to each expert; flips and untested experts are marked"),
        *rows,
        _ticks(most, step, _TOP + _ROW * len(routers) + 14),
        tag("text", "expert", x=(_LEFT + _RIGHT) / 2, y=height - 4, text_anchor="middle", class_="tick"),
        view_box=f"0 0 {_WIDTH:g} {height:g}",
        role="img",
        class_="chart heat",
    )


def _row(router: Mapping[str, Any], top: float, step: float) -> Markup:
    tokens, even = max(router["decisions"], 1), router["chosen"] / router["experts"]
    cells: list[Markup] = []
    for expert, (hits, flipped) in enumerate(zip(router["hits"], router["flipped"], strict=True)):
        x = _LEFT + step * expert
        share = hits / tokens
        untested = expert in router["untested"]
        hover = f"{router['module']}, expert {expert}: " + (
            "no token, untested" if untested else f"{hits} of {tokens} tokens ({share:.2%}), {flipped} flips"
        )
        cells.append(
            tag("rect", tag("title", hover), x=f"{x:.2f}", y=f"{top:.1f}", width=f"{max(step - 0.6, 0.4):.2f}",
                height=_ROW - 2, class_="untested" if untested else "share",
                fill_opacity=None if untested else f"{min(1.0, share / even / _DARKEST):.3f}")
        )  # fmt: skip
        if flipped:
            radius = max(1.0, min(3.2, step * 0.3))
            cells.append(
                tag("circle", cx=f"{x + step / 2:.2f}", cy=f"{top + _ROW / 2 - 1:.1f}", r=f"{radius:.1f}",
                    class_="flip fault" if router["faults"] else "flip")
            )  # fmt: skip
    name = tag("text", router["module"], x=_LEFT - 8, y=f"{top + _ROW - 6:.1f}", text_anchor="end", class_="tick")
    return tag("g", name, *cells)


def _ticks(experts: int, step: float, y: float) -> Markup:
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 10**9) if experts / n <= 32)
    return tag(
        "g",
        *[
            tag("text", e, x=f"{_LEFT + step * (e + 0.5):.1f}", y=y, text_anchor="middle", class_="tick")
            for e in range(0, experts, every)
        ],
    )
