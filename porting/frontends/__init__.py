"""Sources become models here: ONNX files, exported programs, Python factories, and checkpoint folders."""

from __future__ import annotations

import re
from pathlib import Path

from porting.errors import InvalidModelError, UsageError
from porting.frontends.source import Source
from porting.interruption import raise_if_requested

__all__ = ["Source", "load"]

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load(text: str) -> Source:
    """Import a source by what it looks like: ``*.onnx``, ``*.pt2``, ``package.module:factory``, a checkpoint folder.

    Raises UsageError when it looks like none of them or does not exist, InvalidModelError when it is broken.
    """
    source = _import(text)
    raise_if_requested()
    if not source.model.graph.outputs:
        raise InvalidModelError(
            f"{text} has no outputs", required="at least one", fix="export it again with what it is to compute"
        )
    return source


def _import(text: str) -> Source:
    if not text:
        raise UsageError("SOURCE is empty", required="an .onnx file, a .pt2 file, or package.module:factory")
    path = Path(text)
    if not path.exists() and _FACTORY.fullmatch(text):
        from porting.frontends import torch_export

        return torch_export.load_factory(text)
    if not path.exists():
        raise UsageError(
            f"no source {text!r}",
            required="an .onnx file, a .pt2 file, package.module:factory, or a checkpoint folder",
            fix="check the path; a factory is written with a colon",
        )
    if path.is_dir() and (path / "config.json").is_file():
        from porting.frontends import checkpoint

        return checkpoint.load(path)
    if path.is_dir():
        raise UsageError(
            f"{text!r} is a folder without config.json",
            required="an .onnx file, a .pt2 file, package.module:factory, or a checkpoint folder",
            fix="name the model file inside it",
        )
    if path.suffix == ".pt2":
        from porting.frontends import torch_export

        return torch_export.load_pt2(path)
    if path.suffix == ".onnx":
        from porting.frontends import onnx_file

        return onnx_file.load(path)
    raise UsageError(
        f"cannot tell what {text!r} is from its ending",
        required="an .onnx file, a .pt2 file, or package.module:factory",
        met=path.suffix or "no ending",
    )
