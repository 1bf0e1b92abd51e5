"""``porting backends``: what is registered, from which package, and what it takes."""

from __future__ import annotations

import json
from typing import Any

import click

from porting import backends

SCHEMA_VERSION = 1


def collect() -> dict[str, Any]:
    """The content of ``porting backends --json`` (porting/schemas/backends.schema.json)."""
    broken = backends.broken()
    unusable = {entry.name for entry in broken}
    return {
        "schema_version": SCHEMA_VERSION,
        "backends": [
            _describe(backends.get(entry.name), entry.package)
            for entry in backends.registered()
            if entry.name not in unusable
        ],
        "broken": [{"name": entry.name, "package": entry.package, "error": entry.error} for entry in broken],
    }


def _describe(backend: backends.Backend, package: str) -> dict[str, Any]:
    return {
        "name": backend.name,
        "description": backend.description,
        "package": package,
        "surfaces": [
            {
                "name": surface.name,
                "kind": surface.kind,
                "opset": surface.opset,
                "operators": surface.operator_set.operator_count,
                "schemes": list(surface.schemes),
                "dtypes": list(surface.dtypes),
                "consumer": surface.consumer,
                "toolkits": list(backend.toolkits),
            }
            for surface in backend.surfaces.values()
        ],
    }


@click.command("backends")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def command(as_json: bool) -> None:
    """List the registered backends with their surfaces, operator counts and schemes."""
    content = collect()
    if as_json:
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for backend in content["backends"]:
        click.echo(f"{backend['name']}  {backend['description']}  [{backend['package']}]")
        for surface in backend["surfaces"]:
            click.echo(f"  {_line(surface)}")
            if surface["consumer"]:
                click.echo(f"      next: {surface['consumer']}")
        if backend["surfaces"][0]["toolkits"]:
            click.echo(f"  toolkits: {', '.join(backend['surfaces'][0]['toolkits'])}")
    for entry in content["broken"]:
        click.echo(f"{entry['name']}  does not load [{entry['package']}]: {entry['error']}", err=True)


def _line(surface: dict[str, Any]) -> str:
    operators = f"{surface['operators']} operators" if surface["operators"] else "every operator with a meaning"
    opset = f"opset {surface['opset']}" if surface["opset"] else "any opset"
    schemes, dtypes = ", ".join(surface["schemes"]), ", ".join(surface["dtypes"])
    return f"{surface['name']} ({surface['kind']}): {operators}, {opset}; schemes {schemes}; dtypes {dtypes}"
