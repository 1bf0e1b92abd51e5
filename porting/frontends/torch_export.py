"""PyTorch: a ``.pt2`` exported program, or ``package.module:factory`` that makes a module and example inputs.

A factory takes no arguments and returns ``(module, example_inputs)`` or ``(module, example_inputs, dynamic_shapes)``:
a torch.nn.Module, a tuple of positional example inputs, and what torch.export.export takes as ``dynamic_shapes``
(``{"input": {0: torch.export.Dim("batch", min=1, max=64)}}``; the names and bounds are kept).
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from porting.errors import InvalidModelError, UsageError
from porting.frontends import origin
from porting.frontends.onnx_file import check_weights
from porting.frontends.source import Arrays, Reference, Source

# The newest opset that onnxruntime's released kernels cover and the exporter writes natively.
EXPORT_OPSET = 20


def load_factory(text: str) -> Source:
    """Import ``package.module:factory`` from the current folder or the environment and export what it makes."""
    module_name, _, attribute = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise UsageError(
            f"cannot import {text!r}",
            required="package.module:factory, importable from the current folder or the environment",
            met=f"{type(error).__name__}: {error}",
        ) from error
    try:
        made = factory()
    except Exception as error:
        raise InvalidModelError(
            f"{text} raised an exception",
            required="(module, example_inputs) or (module, example_inputs, dynamic_shapes)",
            met=f"{type(error).__name__}: {error}",
        ) from error
    if (
        not isinstance(made, tuple)
        or len(made) not in (2, 3)
        or not isinstance(made[0], torch.nn.Module)
        or not isinstance(made[1], tuple)
    ):
        raise UsageError(
            f"{text} returned {type(made).__name__}",
            required="(module, example_inputs) or (module, example_inputs, dynamic_shapes), example_inputs a tuple",
        )
    module, examples = made[0].eval(), made[1]
    shapes = made[2] if len(made) == 3 else None
    model = _to_onnx(text, module, args=examples, dynamic_shapes=shapes)
    return _source(text, "factory", model, module, examples, _bounds(shapes))


def load_pt2(path: Path) -> Source:
    """Import a program that torch.export.save wrote. InvalidModelError when it is truncated or something else."""
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise InvalidModelError(
            f"{path} is not a whole exported program",
            required="a file of torch.export.save",
            met=f"{type(error).__name__}: {_first_line(error)}",
            fix="export it again with the installed torch",
        ) from error
    examples = program.example_inputs[0] if program.example_inputs else ()
    dims = {str(symbol): (r.lower, r.upper) for symbol, r in program.range_constraints.items()}
    return _source(str(path), "pt2", _to_onnx(str(path), program), program.module(), examples, _finite(dims))


def _source(
    text: str,
    kind: str,
    model: ir.Model,
    module: torch.nn.Module,
    examples: tuple[Any, ...],
    dims: dict[str, tuple[int, int]],
) -> Source:
    origin.stamp(model)
    check_weights(model)
    inputs = [v.name or "" for v in model.graph.inputs]
    outputs = [v.name or "" for v in model.graph.outputs]

    def reference(arrays: Mapping[str, np.ndarray]) -> Arrays:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in inputs))
        flat = torch.utils._pytree.tree_leaves(result)
        return {name: t.numpy() for name, t in zip(outputs, flat, strict=True)}

    example_arrays = {
        name: t.detach().numpy() for name, t in zip(inputs, torch.utils._pytree.tree_leaves(examples), strict=False)
    }
    return Source(
        text=text,
        kind=kind,
        model=model,
        digest=_digest(model),
        open_reference=lambda: Reference("the user's module, eager, float32", reference),
        example_inputs=example_arrays or None,
        dims=dims,
    )


def _to_onnx(text: str, program: torch.nn.Module | torch.export.ExportedProgram, **how: Any) -> ir.Model:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # The exporter's remarks on torchvision say nothing about this model.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=EXPORT_OPSET, optimize=True, verbose=False, **how
            )
    except Exception as error:
        raise InvalidModelError(
            f"{text} has no ONNX form", met=f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    finally:
        log.setLevel(level)
    assert exported is not None
    return exported.model


def _bounds(shapes: Any) -> dict[str, tuple[int, int]]:
    """Names and intervals of the torch.export.Dim objects in a factory's dynamic_shapes."""
    leaves = torch.utils._pytree.tree_leaves(shapes)
    return _finite({d.__name__: (d.min, d.max) for d in leaves if hasattr(d, "min") and hasattr(d, "max")})


def _finite(dims: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[int, int]]:
    """An upper limit of 2**31 and more is torch's way to say that none was given."""
    finite = {}
    for name, (low, high) in dims.items():
        try:
            bounds = int(low), int(high)
        except (TypeError, ValueError, OverflowError):
            continue
        if bounds[1] < 1 << 31:
            finite[name] = bounds
    return finite


def _digest(model: ir.Model) -> str:
    """sha256 over graph and weights, without metadata: the same program gives the same digest on any machine."""
    digest = hashlib.sha256()
    for node in model.graph.all_nodes():
        digest.update(
            repr(
                (
                    node.op_identifier(),
                    [i.name if i is not None else None for i in node.inputs],
                    [o.name for o in node.outputs],
                    sorted((k, str(a.value)) for k, a in node.attributes.items() if a.type != ir.AttributeType.TENSOR),
                )
            ).encode()
        )
        for _, attribute in sorted(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR:
                digest.update(attribute.as_tensor().tobytes())
    for name, value in model.graph.initializers.items():
        digest.update(name.encode())
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
