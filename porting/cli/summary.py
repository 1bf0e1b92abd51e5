"""Parity in a few lines of a terminal."""

from __future__ import annotations

from pathlib import Path

import click

from porting.parity import decoder_layers
from porting.parity.experts import Routing
from porting.parity.report.numbers import decibel
from porting.parity.result import Parity

_COLOURS = {"pass": "green", "fail": "red", "ambiguous": "yellow", "not_measured": "yellow"}
_REASONS = 5
_WORST = 10


def print_parity(parity: Parity, out: Path) -> None:
    """Verdict, outputs, fidelity, and the layers that differ most when each is fed reference inputs."""
    verdict = click.style(parity.verdict.upper(), fg=_COLOURS[parity.verdict], bold=True)
    click.echo(f"{verdict}  {out}  {parity.backend} {parity.surface} {parity.scheme} {parity.dtype}")
    for reason in parity.reasons[:_REASONS]:
        click.echo(f"  {reason}")
    if len(parity.reasons) > _REASONS:
        click.echo(f"  ... and {len(parity.reasons) - _REASONS} more, all in parity.json")
    click.echo(f"  {'output':<28} {'cosine':>10} {'SQNR dB':>8} {'rel L2':>9} {'max abs':>9}")
    for name, m in parity.outputs.items():
        click.echo(f"  {name[-28:]:<28} {_number(m.cosine, '10.6f')} {_decibel(m.sqnr_db)} "
                   f"{_number(m.rel_l2, '9.2e')} {_number(m.max_abs, '9.2e')}")  # fmt: skip
    for name, language in parity.language.items():
        click.echo(
            f"  {name} of {language.positions} tokens: KL {language.kl_mean:.2e} nats "
            f"(p99 {language.kl_p99:.2e}, max {language.kl_max:.2e}), "
            f"top-1 {language.top1_agreement:.2%}, perplexity {language.perplexity:.5g} "
            f"(reference {language.perplexity_reference:.5g})"
        )
    if parity.routing is not None:
        _print_routing(parity, parity.routing)
    for name, m in parity.fidelity.outputs.items():
        click.echo(f"  fidelity of {name}: rel L2 {m.rel_l2:.2e} against {parity.fidelity.against}")
    worst = sorted(
        (layer for layer in parity.layers if layer.isolated is not None and layer.isolated.rel_l2 is not None),
        key=lambda layer: -(layer.isolated.rel_l2 or 0.0) if layer.isolated is not None else 0.0,
    )[:3]
    for layer in worst:
        assert layer.isolated is not None
        click.echo(f"  layer {layer.anchor.place}, {layer.anchor.source}: isolated rel L2 {layer.isolated.rel_l2:.2e}")

    if parity.decoder_layers:
        _print_decoder_layers(parity)


def _print_routing(parity: Parity, routing: Routing) -> None:
    click.echo(
        f"  routing of {routing.decisions} decisions: {routing.near_ties} flip at a near tie "
        f"({routing.near_tie_fraction:.2%}), {routing.faults} are faults; {routing.untested} experts untested"
    )
    for name, replayed in parity.replayed.items():
        click.echo(f"  {name} with the port's experts in the reference: KL {replayed.kl_mean:.2e} nats, "
                   f"top-1 {replayed.top1_agreement:.2%}")  # fmt: skip
    if routing.settled_by == "replay":
        click.echo("  judged by that run: without it only flips break the budget")


def _print_decoder_layers(parity: Parity) -> None:
    """The worst ones, each fed what the reference feeds it."""
    shown = decoder_layers.worst(parity.decoder_layers, _WORST)
    click.echo(f"  {'decoder layer, worst first':<28} {'isolated':>9} {'forced':>9} {'accumul.':>9} {'flips':>6}")
    for layer in shown:
        click.echo(f"  {layer.module[-28:]:<28} {layer.isolated.rel_l2:9.2e} {layer.forced.rel_l2:9.2e} "
                   f"{layer.accumulated.rel_l2:9.2e} {layer.flips:6d}")  # fmt: skip


def _decibel(value: float | None) -> str:
    return f"{'-' if value is None else decibel(value):>8}"


def _number(value: float | None, form: str) -> str:
    width = int(form.split(".")[0])
    return f"{'-':>{width}}" if value is None else format(value, form)
