"""``porting simulate``: the ported model on CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from porting.cli import options
from porting.cli.options import PATH

if TYPE_CHECKING:
    import numpy as np


@click.command("simulate")
@click.argument("out", type=PATH)
@click.option("--inputs", required=True, type=PATH, help="X.npz: one array a graph input.")
@click.option("--outputs", required=True, type=PATH, help="Y.npz: one array a graph output.")
@click.option(
    "--numerics",
    type=click.Choice(["exact", "backend", "ref64"]),
    default="backend",
    show_default=True,
    help="The operators' meaning, the chip's arithmetic, or everything in float64.",
)
@options.memory
def command(out: Path, inputs: Path, outputs: Path, numerics: str, memory: int) -> None:
    """Run the port in OUT on CPU.

    Inputs with more rows than a fixed first dimension takes are run in batches.
    """
    import torch

    from porting import samples
    from porting.port_folder import PortFolder
    from porting.simulation.interpreter import Interpreter
    from porting_kernels import dtypes

    options.require_writable(outputs)
    port = PortFolder.open(out)
    torch.set_num_threads(1)  # A matrix product differs in its last bits between one thread and two.
    interpreter = Interpreter(port.executable, numerics=port.numerics(numerics), memory=memory)

    def run(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: dtypes.to_numpy(tensor) for name, tensor in interpreter.run(sample).items()}

    samples.run_file(run, samples.Samples(inputs, port.executable.graph.inputs), outputs)
    click.echo(f"{outputs}: {out} with {numerics} numerics")
