"""``porting doctor``: versions, the native module, and backends that failed to load. Imports neither torch nor onnx."""

from __future__ import annotations

import importlib.util
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from porting import __version__, backends

SCHEMA_VERSION = 1
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "ml-dtypes", "safetensors")
NATIVE = "porting_kernels._native"


def collect() -> dict[str, Any]:
    """The content of ``porting doctor --json``; a package that is not installed has version null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "porting": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "native": importlib.util.find_spec(NATIVE) is not None,
        "backends": backends.names(),
        "broken": [{"name": entry.name, "package": entry.package, "error": entry.error} for entry in backends.broken()],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def command(as_json: bool) -> None:
    """Show versions, the native module, and backends that failed to load."""
    content = collect()
    if as_json:
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    rows = [("porting", content["porting"]), ("python", content["python"]), ("platform", content["platform"])]
    rows += [(name, found or "not installed") for name, found in content["packages"].items()]
    rows.append(("native module", "present" if content["native"] else "absent: everything works, more slowly"))
    rows.append(("backends", ", ".join(content["backends"])))
    for label, text in rows:
        click.echo(f"{label:<14} {text}")
    for entry in content["broken"]:
        click.echo(f"{'broken':<14} {entry['name']} of {entry['package']}: {entry['error']}")
