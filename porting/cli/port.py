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
    from porting.target import Target

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
@click.option(
    "--smooth",
    type=click.FloatRange(0, 1),
    metavar="ALPHA",
    help="Move outliers of activations into weights, by what --calibrate shows; 0.5 shares the difficulty.",
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
    from porting.data import require_data
    from porting.port import Request, port

    target = options.resolved(source, rest)
    chosen = click.get_current_context().get_parameter_source("method") is not ParameterSource.DEFAULT
    _require_use(target, chosen, **rest)
    for data in (rest["calibrate"], rest["inputs"]):
        require_data(data)
    request = Request(source, target, out, **rest, weights=weights or "beside", threads=threads, force=force)
    parity = port(request, say=lambda line: click.echo(line, err=True))
    if parity is None:
        click.echo(f"{out}: ported without weights; parity not measured")
        return 0
    print_parity(parity, out)
    click.echo(f"  report: {out / 'report.html'}")
    return 1 if parity.verdict == "fail" else 0


def _require_use(
    target: Target, method_chosen: bool, calibrate: Path | None, smooth: float | None, scheme_map: Path | None, **_: Any
) -> None:
    """UsageError for options that say nothing to the scheme."""
    if smooth is not None and (calibrate is None or not target.quantizes_by_row):
        raise UsageError(
            "--smooth needs a scheme that quantizes activations by row, and data",
            required="--scheme w8a8 or w4a8, and --calibrate DATA",
            met="no --calibrate" if target.quantizes_by_row else f"--scheme {target.scheme}",
        )
    if not target.quantizes_by_ranges and (method_chosen or (calibrate is not None and smooth is None)):
        raise UsageError(
            f"--calibrate and --calibration-method say nothing to scheme {target.scheme!r}",
            required="a scheme with static ranges of activations, or --smooth",
            fix="--scheme w8a8-static; data to compare on are --inputs",
        )
    if scheme_map is not None and not target.quantizes_by_row:
        raise UsageError(
            f"--scheme-map says nothing to scheme {target.scheme!r}", required="a scheme with integer weights"
        )
