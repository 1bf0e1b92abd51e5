"""``porting checkpoint plan``: sizes, disk, time and reasons, before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from porting.cli import options
from porting.cli.options import PATH, SizeType

if TYPE_CHECKING:
    from porting.checkpoint.planning import FormatPlan


@click.command("plan")
@click.argument("src", type=PATH)
@options.conversion
@options.threads
@click.option("--rate", type=SizeType(), help="Bytes that the disk reads and writes a second.  [default: 400MB]")
@click.option("--json", "file", type=PATH, metavar="FILE", help="Write the whole plan.")
def command(
    src: Path,
    scheme: str,
    formats: tuple[str, ...],
    scheme_map: Path | None,
    divisor: str,
    threads: int,
    rate: int | None,
    file: Path | None,
) -> None:
    """Say what a conversion of SRC would write, which weights stay in float and why. Reads headers alone."""
    from porting.checkpoint.conversion import Conversion
    from porting.checkpoint.planning import RATE, plan
    from porting.checkpoint.size_text import size_text
    from porting.checkpoint.source import Source
    from porting.json_text import json_text
    from porting.quantization.scheme_map import read_scheme_map

    options.require_writable(file)
    chosen = None if scheme_map is None else read_scheme_map(scheme_map)
    asked = Conversion(Source(src), scheme, formats, chosen, whole=divisor == "127.5")
    found = plan(asked, rate=rate or RATE, threads=threads)
    click.echo(
        f"{found.source}: {found.family or 'no model_type'}, {found.tensors:,} tensors ({found.float8:,} float8) in "
        f"{found.files} files, {found.nbytes:,} bytes ({size_text(found.nbytes)})"
    )
    for each in found.formats:
        _print(each, found.nbytes)
    click.echo(
        f"disk needed: {found.disk:,} bytes ({size_text(found.disk)}); about {_duration(found.seconds)} "
        f"at {found.rate / 1e6:.0f} MB/s of reading and writing and {threads} threads"
    )
    if file is not None:
        options.write(file, json_text(found.to_json()))


def _print(plan: FormatPlan, source: int) -> None:
    from porting.checkpoint.planning import in_float
    from porting.checkpoint.size_text import size_text

    click.echo(
        f"{plan.name}: {plan.tensors:,} tensors in {plan.files} files, {plan.nbytes:,} bytes "
        f"({size_text(plan.nbytes)}, {plan.nbytes / max(1, source):.0%} of the source)"
    )
    for line in plan.lines:
        if line.stored != "float":
            click.echo(f"  {size_text(line.nbytes):>12}  {line.tensors:>6} x {line.pattern:<56} {line.stored}")
    for (reason, where), lines in in_float(plan.lines).items():
        count, size = sum(line.tensors for line in lines), sum(line.nbytes for line in lines)
        more = f" and {len(lines) - 1} other kinds" if len(lines) > 1 else ""
        click.echo(f"  {size_text(size):>12}  {count:>6} x {lines[0].pattern}{more}, in float: {reason}")
        click.echo(f"{'':24}[source: {where}]")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
