"""``porting port``: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from porting.cli import options
from porting.cli.options import PATH
from porting.errors import UsageError

if TYPE_CHECKING:
    from porting.emit import WeightPlace

METHODS = ("minmax", "percentile", "mse", "entropy")


@click.command("port")
@click.argument("source")
@options.target
@click.option(
    "--calibrate",
    type=PATH,
    metavar="DATA",
    help="Samples that give the ranges of activations: an .npz or a folder of them.",
)
@click.option(
    "--calibration-method",
    "method",
    type=click.Choice(METHODS),
    default="minmax",
    show_default=True,
    help="How ranges are chosen.",
)
@options.scheme_map
@click.option(
    "--inputs",
    type=PATH,
    metavar="DATA",
    help="Samples or text that parity is measured on.  [default: those of --calibrate]",
)
@click.option("--budget", type=PATH, metavar="FILE", help="Limits that go before the default ones (JSON).")
@click.option(
    "--weights",
    type=click.Choice(["embed", "none"]),
    help="Inside the model file, or nowhere.  [default: weights.bin beside it]",
)
@options.memory
@options.threads
@click.option("--force", is_flag=True, help="Replace an earlier port at OUT.")
@click.option("-o", "out", required=True, type=PATH, metavar="OUT", help="The folder to make.")
def command(out: Path, source: str, weights: WeightPlace | None, threads: int, force: bool, **rest: Any) -> int:
    """Port SOURCE to a backend, into the folder OUT.

    SOURCE is an .onnx or .pt2 file, package.module:factory, or a Hugging Face checkpoint folder.

    Rewrites it into the operators of the surface, quantizes it, emits it, and measures its parity with the source.
    """
    from porting.cli.summary import print_parity
    from porting.port import Request, port

    target = options.resolved(source, rest)
    chosen = click.get_current_context().get_parameter_source("method") is not ParameterSource.DEFAULT
    if not target.quantizes_by_ranges and (chosen or rest["calibrate"] is not None):
        raise UsageError(
            f"--calibrate and --calibration-method say nothing to scheme {target.scheme!r}",
            required="a scheme that quantizes activations",
            fix="--scheme w8a8-static; data to compare on are --inputs",
        )
    request = Request(source, target, out, **rest, weights=weights or "beside", threads=threads, force=force)
    parity = port(request, say=lambda line: click.echo(line, err=True))
    if parity is None:
        click.echo(f"{out}: ported without weights; parity not measured")
        return 0
    print_parity(parity, out)
    click.echo(f"  report: {out / 'report.html'}")
    return 1 if parity.verdict == "fail" else 0
