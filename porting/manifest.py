"""``port.json``: what a port is, how it was made, and the digests that notice when a file of it changes."""

from __future__ import annotations

import collections
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

import porting
from porting import schemas
from porting.errors import InvalidInputError
from porting.json_text import json_text
from porting.output_folder import MANIFEST
from porting_passes.operator_set import qualified
from porting_passes.rewrite import Applied

SCHEMA_VERSION = 1
REPORT = "report.html"
_TOOLS = ("torch", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "numpy")
_CHUNK = 1 << 22
_TYPES: dict[str, type] = {"string": str, "integer": int, "array": list, "object": dict}


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a port. InvalidInputError where there is none, or one of another version, damaged or edited."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(
            f"{folder} is no port",
            required=f"a folder with {MANIFEST}",
            met=error.strerror,
            fix="`porting port` makes one",
        ) from error
    except ValueError as error:
        raise InvalidInputError(f"{path} is damaged", met=str(error), fix="port again") from error
    _check(path, manifest)
    if manifest.pop("digest") != _digest(manifest):
        raise InvalidInputError(
            f"{path} is not as it was written", required="the digest in it", fix="port again, or copy the folder again"
        )
    return manifest


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``port.json``, with a digest of itself."""
    document = {**manifest, "digest": _digest(manifest)}
    (folder / MANIFEST).write_text(json_text(document), encoding="utf-8")


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _check(path: Path, manifest: Any) -> None:
    """Version, keys and their types, as the schema has them; what lies deeper is what the digest holds."""
    if not isinstance(manifest, dict):
        raise InvalidInputError(f"{path} is damaged", required="a JSON object", fix="port again")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InvalidInputError(
            f"{path} has another version",
            required=f"schema_version {SCHEMA_VERSION}",
            met=manifest.get("schema_version"),
            fix="port again with this version of porting",
        )
    schema = schemas.load("port")
    for key in schema["required"]:
        if key not in manifest:
            raise InvalidInputError(f"{path} is damaged", required=f"key {key!r}", met="no such key", fix="port again")
        wanted = schema["properties"][key].get("type")
        if wanted is not None and not isinstance(manifest[key], _TYPES[wanted]):
            raise InvalidInputError(
                f"{path} is damaged", required=f"{key!r}: {wanted}", met=type(manifest[key]).__name__, fix="port again"
            )


def check_files(folder: Path, manifest: Mapping[str, Any], names: Sequence[str] | None = None) -> None:
    """Compare files of a port (all, or some) with their digests.

    InvalidInputError names every one that differs, and with all of them every one that was not there.
    """
    wrong = []
    if names is None:
        present = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        wrong += [f"{name} is not of the port" for name in sorted(present - {*manifest["files"], MANIFEST})]
    for name, digest in manifest["files"].items():
        if names is not None and name not in names:
            continue
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif file_digest(path) != digest:
            wrong.append(f"{name} has changed ({path.stat().st_size} bytes)")
    if wrong:
        raise InvalidInputError(
            f"{folder} is not as it was written", met="; ".join(wrong), fix="port again, or copy the folder again"
        )


def file_digest(path: Path) -> str:
    """``sha256:`` and the digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def digests(folder: Path) -> dict[str, str]:
    """The digest of every file in a folder, by its relative path, sorted."""
    return {str(p.relative_to(folder)): file_digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def without_report(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as the report shows it: a page cannot hold its own digest."""
    return {**manifest, "files": {k: v for k, v in manifest["files"].items() if k != REPORT}}


def tools() -> dict[str, str]:
    """Versions of everything that results may depend on."""
    versions = {name: importlib.metadata.version(name) for name in _TOOLS}
    return {"porting": porting.__version__, **versions, "python": platform.python_version()}


def operators(model: ir.Model) -> dict[str, int]:
    """Operator -> number of nodes, subgraphs included, sorted."""
    counts = collections.Counter(qualified(n.domain, n.op_type) for n in model.graph.all_nodes())
    return dict(sorted(counts.items()))


def rewrites(applied: Sequence[Applied]) -> list[dict[str, Any]]:
    """The rules that were applied, in order of first use, with their contracts and the source values they touched."""
    grouped: dict[str, list[Applied]] = {}
    for one in applied:
        grouped.setdefault(one.rule, []).append(one)
    return [
        {
            "rule": rule,
            "count": len(uses),
            "contract": {
                "kind": uses[0].contract.kind,
                "value": uses[0].contract.value,
                "reason": uses[0].contract.reason,
            },
            "sources": list(dict.fromkeys(s for use in uses for s in use.sources)),
        }
        for rule, uses in grouped.items()
    ]


def signature(values: Sequence[ir.Value]) -> list[dict[str, Any]]:
    """Name, dtype and shape of graph inputs or outputs."""
    return [
        {
            "name": value.name,
            "dtype": value.dtype.name.lower() if value.dtype is not None else "unknown",
            "shape": [d if isinstance(d, int) else d.value for d in (value.shape if value.shape is not None else ())],
        }
        for value in values
    ]
