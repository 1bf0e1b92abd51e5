"""``porting run``: a port of a Python surface on a device."""

from __future__ import annotations

import json
from pathlib import Path

import click

from porting.cli import options
from porting.cli.options import PATH


@click.command("run")
@click.argument("out", type=PATH)
@click.option("--inputs", required=True, type=PATH, help="X.npz: one array a graph input.")
@click.option("--outputs", required=True, type=PATH, help="Y.npz: one array a graph output.")
@click.option("--device", default="npu:0", show_default=True, help="torch's name of the device, or cpu-standin.")
def command(out: Path, inputs: Path, outputs: Path, device: str) -> None:
    """Run the port in OUT with the vendor's Python calls, and write placement.json beside the outputs.

    Nodes of the vendor's operators call its modules, all others plain torch on the device. Exit code 5 where a module
    or the device is missing, or a call fails.
    """
    from porting import samples
    from porting.port_folder import PortFolder
    from porting.runner.device_run import DeviceRun

    options.require_writable(outputs)
    port = PortFolder.open(out)
    run = DeviceRun(port, device)
    samples.run_file(run, samples.Samples(inputs, port.executable.graph.inputs), outputs)
    placement = outputs.parent / "placement.json"
    options.write(placement, json.dumps(run.placement(), indent=1) + "\n")
    click.echo(f"{outputs}: {out} on {device}")
