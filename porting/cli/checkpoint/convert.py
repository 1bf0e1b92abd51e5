"""``porting checkpoint convert``: read once, write every format."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from porting.cli import options
from porting.cli.options import PATH
from porting.errors import UsageError

if TYPE_CHECKING:
    from porting.checkpoint.conversion import Conversion


_SHOWN = 5


@click.command("convert")
@click.argument("src", type=PATH)
@options.conversion
@options.process_memory
@options.threads
@click.option(
    "--sink",
    type=click.Choice(["files", "null"]),
    default="files",
    show_default=True,
    help="null: read and quantize, and write nothing.",
)
@click.option("-o", "out", type=PATH, metavar="OUT", help="The folder to write; OUT/FORMAT for several formats.")
def command(
    src: Path,
    scheme: str,
    formats: tuple[str, ...],
    scheme_map: Path | None,
    divisor: str,
    memory: int,
    threads: int,
    sink: str,
    out: Path | None,
) -> None:
    """Write the checkpoint folder SRC in the formats that runtimes load.

    A run that was interrupted, killed, or stopped by a full disk goes on with the same command; what it writes is the
    same to the byte.
    """
    from porting.checkpoint.conversion import Conversion, convert, dry_run
    from porting.checkpoint.progress import for_terminal
    from porting.checkpoint.source import Source
    from porting.quantization.scheme_map import read_scheme_map

    if (out is None) == (sink == "files"):
        raise UsageError("-o says where files go", required="-o OUT, or --sink null", met=f"--sink {sink}")
    chosen = None if scheme_map is None else read_scheme_map(scheme_map)
    conversion = Conversion(Source(src), scheme, formats, chosen, whole=divisor == "127.5")
    start = time.monotonic()
    if out is None:
        found = dry_run(conversion, threads=threads, memory=memory, progress=for_terminal("convert"))
    else:
        found = convert(conversion, out, threads=threads, memory=memory, progress=for_terminal("convert"))
    _print(conversion, found, out, time.monotonic() - start)


def _print(conversion: Conversion, found: dict[str, Any], out: Path | None, seconds: float) -> None:
    from porting.checkpoint.record import totals
    from porting.checkpoint.size_text import size_text

    read = conversion.source.store.data_bytes_read
    rate = f", {read / 1e6 / seconds:.0f} MB/s" if read else ""
    click.echo(f"read      {size_text(read)} of {len(conversion.source.tensors)} tensors in {seconds:.1f} s{rate}")
    several = len(conversion.formats) > 1
    for name in conversion.formats:
        folder = name if several else ""
        files = [facts for file, facts in found["files"].items() if file.rpartition("/")[0] == folder]
        size = sum(facts["size"] for facts in files)
        where = "nowhere" if out is None else out / folder
        click.echo(f"{name}: {size_text(size)} in {len(files)} files, {where}")
        sums = totals(found, folder)
        findings = sums.findings
        if findings.not_finite:
            click.echo(
                f"  {findings.not_finite} rows with NaN or infinity: their scales are NaN, no runtime can use them"
            )
        if findings.zero or findings.tiny:
            click.echo(f"  {findings.zero} scales of zeros only, {findings.tiny} below the least normal number")
        if name == conversion.formats[0]:
            _print_scales(conversion, sums.scales, sums.powers_of_two, dict(sums.others), sums.not_usable)


def _print_scales(
    conversion: Conversion, scales: int, powers: int, others: dict[str, int], not_usable: list[str]
) -> None:
    declared = conversion.source.config.get("quantization_config", {}).get("scale_fmt")
    if not scales:
        return
    click.echo(f"  source scales: {powers} of {scales} tensors are powers of two throughout")
    if declared == "ue8m0" and powers < scales:
        click.echo(
            "  scale_fmt ue8m0 of config.json does not hold for all of them; exponent bits alone would be wrong in"
        )
        for name, count in sorted(others.items()):
            click.echo(f"    {count} x {name}")
    for name in not_usable[:_SHOWN]:
        click.echo(f"  scales that are zero, negative or no numbers: {name}")
    if len(not_usable) > _SHOWN:
        click.echo(f"    and in {len(not_usable) - _SHOWN} more tensors, all in conversion.json")
