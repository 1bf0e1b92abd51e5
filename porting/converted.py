"""Parity of a converted checkpoint folder: of what a runtime would serve from its files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from porting import backends, manifest
from porting.checkpoint.record import NAME
from porting.checkpoint.served import Served
from porting.checkpoint.source import Source
from porting.checkpoint.validation import detect, folders
from porting.errors import InvalidInputError, UsageError
from porting.output_folder import MANIFEST
from porting.parity.result import Parity
from porting.port import Request, port
from porting.target import Target

_SURFACES = {"ascend": ("ascend-910b", "torch_npu"), "cambricon": ("cambricon-mlu590", "torch_mlu_ops")}
"""Format -> the backend and surface whose runtimes load it; the others are loaded by several."""
_DTYPE = "bfloat16"
"""In which runtimes compute, and in which a folder holds what stays in float."""


def is_converted(path: Path) -> bool:
    """Whether a folder is a conversion, or holds a checkpoint, and no port."""
    return not (path / MANIFEST).exists() and ((path / NAME).exists() or (path / "config.json").exists())


def _target(form: str, scheme: str) -> Target:
    """Where the format is served; the reference, where that surface does not know the scheme."""
    backend, surface = _SURFACES.get(form, ("reference", "reference"))
    if scheme not in backends.get(backend).surface(surface).schemes:
        backend, surface = "reference", "reference"
    return Target.resolve(backend, surface, scheme=scheme, dtype=_DTYPE, language_model=True)


def verify_converted(
    path: Path,
    *,
    source: str | None,
    inputs: Path | None = None,
    budget: Path | None = None,
    memory: int | None = None,
    threads: int = 1,
) -> tuple[Parity, dict[str, Any]]:
    """Port the graph of ``source`` with the numbers and codes of a converted folder, and measure it against ``source``.

    Returns the parity, and what ``port.json`` says of it. The backend is the one whose runtimes load the format, the
    reference for formats of several. The port is written to the folder of temporary files (TMPDIR), which needs room
    for the weights, and is gone afterwards.
    Raises UsageError without ``source``, InvalidInputError for several formats at once, InvalidModelError for a folder
    that is no conversion of it.
    """
    if source is None:
        raise UsageError(
            "a converted folder does not say where its source is", required="--source ORIGINAL", where=path
        )
    below = folders(path)
    if below != [path]:
        raise InvalidInputError(
            f"{path} holds several formats", required="one of them", met=", ".join(each.name for each in below),
            fix=f"porting verify --source {source} {below[0]}",
        )  # fmt: skip
    original = Source(Path(source))
    served = Served(path)
    scheme = served.scheme({tensor.name: tensor.shape for tensor in original.tensors.values()})
    target = _target(detect(path), scheme)
    with tempfile.TemporaryDirectory(prefix="porting-") as scratch:
        out = Path(scratch) / "port"
        request = Request(
            source, target, out, inputs=inputs, budget=budget, memory=memory, served=served, threads=threads
        )
        parity = port(request)
        assert parity is not None
        return parity, manifest.without_report(manifest.read(out))
