"""``porting sensitivity``: which layers to keep in float when parity does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from porting.cli import options
from porting.cli.options import PATH

if TYPE_CHECKING:
    from porting.parity.sensitivity import By, Sensitivity

_SHOWN = 20


@click.command("sensitivity")
@click.argument("out", type=PATH)
@click.option("--source", metavar="SOURCE", help="The original, if it is not where port.json says.")
@click.option("--inputs", type=PATH, metavar="DATA", help="Samples to measure on.  [default: the port's own evidence]")
@click.option(
    "--by",
    type=click.Choice(["module", "layer"]),
    help="What goes to float together.  [default: modules, or decoder layers where there are more than 64]",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=3, show_default=True, help="How many to put into the scheme map."
)
@options.memory
@options.threads
@click.option("--json", "file", type=PATH, metavar="FILE", help="Write the whole ranking.")
def command(
    out: Path,
    source: str | None,
    inputs: Path | None,
    by: By | None,
    top: int,
    memory: int,
    threads: int,
    file: Path | None,
) -> None:
    """Rank the quantized layers of the port in OUT by what is gained when they stay in float.

    Runs the port once for each of them and each batch. Prints a scheme map that keeps the first ones in float.
    """
    from porting.json_text import json_text
    from porting.sensitivity import measure_sensitivity

    options.require_writable(file)
    found = measure_sensitivity(
        out, source=source, inputs=inputs, by=by, memory=memory, threads=threads,
        say=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    _print(found, out)
    fragment = found.scheme_map(top)
    if fragment:
        click.echo(f"\nA file for --scheme-map that keeps the first {len(fragment)} in float:")
        click.echo(json.dumps(fragment, indent=1, ensure_ascii=False))
    else:
        click.echo("\nNo layer gains by staying in float.")
    if file is not None:
        options.write(file, json_text(found.to_json(top)))


def _print(found: Sensitivity, out: Path) -> None:
    unit = "KL, nats" if found.metric == "kl_mean" else "rel L2"
    click.echo(f"{out}: {unit} {found.error:.3e}, with all {len(found.gains)} in float {found.floor:.3e}")
    click.echo(f"  {f'{found.by} kept in float':<52} {unit:>10} {'gained':>10} {'share':>7}")
    for gain in found.gains[:_SHOWN]:
        share = gain.gain / found.error if found.error else 0.0
        click.echo(f"  {gain.group.name[-52:]:<52} {gain.error:10.3e} {gain.gain:10.3e} {share:7.1%}")
    if len(found.gains) > _SHOWN:
        click.echo(f"  ... and {len(found.gains) - _SHOWN} more, all in --json")
    if found.unmeasured:
        click.echo(f"  not measured, the port has no values around them: {', '.join(found.unmeasured)}")
