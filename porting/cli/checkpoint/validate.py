"""``porting checkpoint validate``: what a loader would stumble over, before it is started."""

from __future__ import annotations

from pathlib import Path

import click

from porting.cli.options import PATH
from porting.errors import InvalidModelError

_SHOWN = 20


@click.command("validate")
@click.argument("folder", type=PATH)
@click.option("--digests", is_flag=True, help="Read every weight file and compare it with conversion.json.")
def command(folder: Path, digests: bool) -> None:
    """Hold the converted FOLDER against what its loaders ask for: names, types, shapes, documents, scales.

    Of several formats, each. Needs no network, no device and no other framework. Exit code 2 where something is wrong.
    """
    from porting.checkpoint.validation import detect, folders, validate

    broken = 0
    for each in folders(folder):
        faults = validate(each, digests=digests)
        broken += len(faults)
        for fault in faults[:_SHOWN]:
            click.echo(f"  {fault}")
        if len(faults) > _SHOWN:
            click.echo(f"  ... and {len(faults) - _SHOWN} more")
        state = f"{len(faults)} faults" if faults else "in order" + (", digests too" if digests else "")
        click.echo(f"{each}: {detect(each)}, {state}")
    if broken:
        raise InvalidModelError(f"{folder} does not keep its loaders' contract", met=f"{broken} faults")
