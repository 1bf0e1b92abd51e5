"""``porting check``: every node with no legal form, with reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from porting.cli import options

_EXIT = {"legal": 0, "illegal": 3, "unknown": 4}


@click.command("check")
@click.argument("source")
@options.target
@options.scheme_map
@click.option("--as-is", is_flag=True, help="Judge the source unrewritten.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(source: str, as_is: bool, as_json: bool, scheme_map: Path | None, **rest: Any) -> int:
    """Say which nodes of SOURCE have no legal form on a backend, with the reasons and what was tried.

    Exit code 0: all legal; 3: at least one illegal; 4: none illegal, at least one unknown.
    """
    from porting import frontends
    from porting.check import check_source
    from porting.pipeline import describe, describe_untried
    from porting.quantization.scheme_map import read_scheme_map

    target = options.resolved(source, rest)
    exceptions = None if scheme_map is None else read_scheme_map(scheme_map)
    checked = check_source(frontends.load(source), target, as_is=as_is, scheme_map=exceptions)
    for operator in checked.unused_permissions:
        click.echo(f"note: --allow-unknown {operator}: no node of unknown legality has this operator", err=True)
    if as_json:
        click.echo(json.dumps(checked.to_json(), indent=1, sort_keys=True, ensure_ascii=False))
    else:
        if as_is and checked.failures:
            click.echo(describe_untried(checked.failures, "rewrites were not tried (--as-is)") + "\n")
        elif not as_is:
            for failure in checked.failures:
                click.echo(describe(failure) + "\n")
        click.echo(
            f"{checked.verdict}: {checked.nodes} nodes on {target.specification}, surface {target.surface.name}; "
            f"{sum(f.verdict == 'illegal' for f in checked.failures)} illegal, "
            f"{sum(f.verdict == 'unknown' for f in checked.failures)} unknown"
        )
    return _EXIT[checked.verdict]
