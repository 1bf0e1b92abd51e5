"""``porting checkpoint compare``: the error of every weight."""

from __future__ import annotations

from pathlib import Path

import click

from porting.cli import options
from porting.cli.options import PATH

_WIDTH = 58


@click.command("compare")
@click.argument("src", type=PATH)
@click.argument("folder", type=PATH)
@click.option("--max-rel-l2", type=click.FloatRange(min=0), help="Exit code 1 where a weight is further off than this.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How many of the worst to show.")
@options.threads
@click.option("--json", "file", type=PATH, metavar="FILE", help="Write the errors of all tensors.")
def command(src: Path, folder: Path, max_rel_l2: float | None, top: int, threads: int, file: Path | None) -> int:
    """Measure how far the weights of the converted FOLDER are from those of the checkpoint SRC.

    Exit code 1 where a weight is further off than --max-rel-l2, or holds numbers that are none.
    """
    from porting.checkpoint.comparison import compare
    from porting.checkpoint.progress import for_terminal
    from porting.checkpoint.source import Source
    from porting.json_text import json_text

    options.require_writable(file)
    found = compare(Source(src), folder, threads=threads, progress=for_terminal("compare"))
    worst = found.quantized
    click.echo(f"{folder}: {found.form}, {len(found.tensors)} tensors, {len(worst)} quantized or rounded")
    click.echo(
        f"  {'the worst of them':<{_WIDTH}} {'stored':>7} {'SQNR dB':>8} {'rel L2':>9} {'at ends':>8} {'row':>7}"
    )
    for each in worst[:top]:
        ends = "" if each.saturated is None else f"{each.saturated:.2%}"
        click.echo(
            f"  {each.name[-_WIDTH:]:<{_WIDTH}} {each.stored:>7} {each.sqnr_db:8.1f} {each.rel_l2:9.2e} {ends:>8} "
            f"{each.worst_row:>7}"
        )
    if file is not None:
        options.write(file, json_text(found.to_json()))
    broken = [each for each in worst if each.not_finite]
    for each in broken[:top]:
        click.echo(f"  not finite: {each.not_finite} numbers of {each.name}")
    past = found.past(max_rel_l2) if max_rel_l2 is not None else broken
    if past and max_rel_l2 is not None:
        click.echo(f"  {len(past)} tensors past the limit of {max_rel_l2:g}")
    return 1 if past else 0
