"""``porting checkpoint``: from a checkpoint folder to what a runtime loads."""

from __future__ import annotations

import click

from porting.cli import Commands

COMMANDS = {
    "compare": "Measure the error of every weight of a converted folder.",
    "convert": "Write SRC in the formats that runtimes load.",
    "plan": "Say what a conversion would write, from headers alone.",
    "validate": "Hold a converted folder against what its loaders ask for.",
}


@click.group("checkpoint", cls=Commands, table=COMMANDS, package="porting.cli.checkpoint")
def command() -> None:
    """Convert checkpoints into what runtimes load, and prove what was written."""
