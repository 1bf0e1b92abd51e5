"""The user's names: what every imported value stands for, with module path, class, file and line where known."""

from __future__ import annotations

import ast
import os
import re
import sys
import sysconfig
import traceback

import onnx_ir as ir

from porting_passes import provenance

SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"
TRACE = "pkg.torch.onnx.stack_trace"
_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"  # torch's word for a node that it made itself
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_NOT_USER_CODE = ("torch/nn/modules/", "torch/_", "torch/onnx/", "torch/export/", "torch/utils/", "torch/fx/")


def stamp(model: ir.Model) -> None:
    """Give every value of the main graph and its subgraphs the provenance of itself."""
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            provenance.set_(value, provenance.Provenance(sources=(value.name or "",), equal=True))
        for node in graph:
            module, class_name, file, line = _place(node)
            for value in node.outputs:
                if value.name:
                    provenance.set_(
                        value,
                        provenance.Provenance(
                            sources=(value.name,),
                            equal=True,
                            module=module,
                            class_name=class_name,
                            file=file,
                            line=line,
                        ),
                    )


def _place(node: ir.Node) -> tuple[str | None, str | None, str | None, int | None]:
    """Module path, class, file and line from the metadata that torch's exporter leaves on nodes."""
    metadata = node.metadata_props
    module = class_name = file = None
    line = None
    scopes, classes = _list(metadata.get(SCOPES)), _list(metadata.get(CLASSES))
    # The last scope is the node itself, the one before it the innermost module; the first is the root, unnamed.
    if len(scopes) >= 2 and scopes[-2] != _NO_MODULE:
        module = scopes[-2] or None
        if len(classes) >= 2:
            class_name = classes[-2].rsplit(".", 1)[-1]
    frames = _FRAME.findall(metadata.get(TRACE, ""))
    own = [f for f in frames if not any(part in f[0] for part in _NOT_USER_CODE)]
    if own:
        file, line = _relative(own[-1][0]), int(own[-1][1])
    return module, class_name, file, line


def raised_at(error: BaseException) -> str | None:
    """``file:line`` where an error of the user's own code came from; None when it never got there."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_relative(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)[1:]  # The first is the one of ours that caught it.
    own = [f for f in frames if os.path.exists(f.filename) and not _installed(f.filename)]
    return f"{_relative(own[-1].filename)}:{own[-1].lineno}" if own else None


def _installed(file: str) -> bool:
    standard = sysconfig.get_paths()["stdlib"] + os.sep
    return file.startswith(standard) or "site-packages" in file or "dist-packages" in file


def _relative(file: str) -> str:
    """Paths below the current folder, or below where Python finds packages, are written from there.

    A port does not tell where the user works, and is the same wherever that is.
    """
    folders = [os.getcwd(), *(path for path in sys.path if os.path.isabs(path))]
    above = [folder for folder in folders if file.startswith(folder.rstrip(os.sep) + os.sep)]
    return os.path.relpath(file, max(above, key=len)) if above else file


def _list(text: str | None) -> list[str]:
    if not text:
        return []
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(item) for item in value] if isinstance(value, list) else []
