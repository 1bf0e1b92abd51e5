"""``porting reference``: the truth of every parity check, run by itself."""

from __future__ import annotations

from pathlib import Path

import click

from porting.cli import options
from porting.cli.options import PATH


@click.command("reference")
@click.argument("source")
@click.option("--inputs", required=True, type=PATH, help="X.npz: one array a graph input; or text.")
@click.option("--outputs", required=True, type=PATH, help="Y.npz: one array a graph output.")
def command(source: str, inputs: Path, outputs: Path) -> None:
    """Run SOURCE on CPU in float32 by what it came from: onnxruntime for ONNX, the module itself for PyTorch.

    Inputs with more rows than a fixed first dimension takes are run in batches.
    """
    from porting import frontends, samples
    from porting.data import open_data

    options.require_writable(outputs)
    loaded = frontends.load(source)
    data = open_data(inputs, loaded, loaded.model.graph.inputs)
    count = samples.run_file(loaded.reference, data, outputs)
    click.echo(f"{outputs}: {count} batch{'es' * (count != 1)} of {source} on {loaded.reference.name}")
