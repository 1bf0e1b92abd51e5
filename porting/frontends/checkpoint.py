"""Hugging Face checkpoint folders: config.json and safetensors become a graph whose weights stay on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir

from porting.errors import InvalidModelError, UsageError
from porting.frontends.source import Source
from porting.weights.scales import FLOAT8, find_scale, scale_summary
from porting.weights.store import WeightStore
from porting_kernels import dtypes

READ_METHODS = ("fp8",)
"""Values of quantization_config.quant_method whose weights are read: 8-bit floats with scales by block."""


def load(path: Path) -> Source:
    """Import the causal language model of a checkpoint folder: input ``input_ids``, output ``logits``.

    Only headers of the weight files are read. digest: sha256 over config.json and, for every stored tensor in the
    order of names, its name, dtype, shape, file and place in the file; not over data, which may be 700 GB.
    Raises UsageError where transformers is not installed; InvalidModelError for a config that is malformed, of an
    unknown architecture or only for code of its own, a model that does not export, and weights that do not fill it.
    """
    from porting.frontends import checkpoint_graph, checkpoint_reference
    from porting.frontends.checkpoint_binding import bind, outside
    from porting.frontends.checkpoint_recipe import to_view
    from porting.frontends.checkpoint_tokenizer import tokenizer

    config = read_config(path)
    store = WeightStore(path)
    shapes = stored_shapes(store)
    module = _instantiate(config, shapes)
    binding = bind(module, shapes)
    model = checkpoint_graph.export(module)
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            view = to_view(binding.recipes[name], store, dtypes.torch_dtype(value.dtype))
            view.name = name
            value.const_value = cast(ir.TensorProtocol, view)
    return Source(
        text=str(path),
        kind="checkpoint",
        model=model,
        digest=_digest(path, store),
        open_reference=lambda: checkpoint_reference.open_reference(config, binding, store),
        tokenizer=tokenizer(path),
        family=config.model_type,
        block_scales=lambda: scale_summary(store),
        not_in_graph=outside(binding.unused, [*shapes_used(binding.recipes), *binding.recipes]),
    )


def read_config(path: Path) -> Any:
    """config.json as transformers' own class for it. Code in the folder is never run."""
    try:
        from transformers import CONFIG_MAPPING
    except ImportError as error:
        raise UsageError(
            "checkpoint folders need transformers", met=str(error), fix="pip install 'porting[hf]'"
        ) from error
    file = path / "config.json"
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidModelError("cannot read config.json", met=error, where=file) from error
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if not isinstance(kind, str):
        raise InvalidModelError(
            "config.json names no architecture", required="model_type, a string", met=kind, where=file
        )
    if kind not in CONFIG_MAPPING:
        if "auto_map" in fields:
            raise InvalidModelError(
                f"the checkpoint asks for code of its own to make a {kind!r} model, which is never run",
                required="an architecture that transformers has itself",
                met=f"auto_map {json.dumps(fields['auto_map'])[:200]}",
                where=file,
                fix="export the model yourself and bring the .pt2 or .onnx file",
            )
        raise InvalidModelError(
            f"unknown architecture {kind!r}", required="a model_type of the installed transformers", where=file
        )
    fields.pop("auto_map", None)
    quantization = fields.pop("quantization_config", None)
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if quantization is not None and method not in READ_METHODS:
        raise InvalidModelError(
            "weights in a quantized format that is not read",
            required=f"quant_method {' or '.join(READ_METHODS)}, or unquantized weights",
            met=method,
            where=file,
        )
    try:
        return CONFIG_MAPPING[kind].from_dict(fields)
    except Exception as error:
        raise InvalidModelError(
            f"config.json is no valid {kind} config", met=f"{type(error).__name__}: {error}", where=file
        ) from error


def stored_shapes(store: WeightStore) -> dict[str, tuple[int, ...]]:
    """Shapes of the stored tensors by name, without the scales of others."""
    scales = {
        scale.name
        for name, entry in store.entries.items()
        if entry.dtype in FLOAT8 and (scale := find_scale(store.entries, name)) is not None
    }
    return {name: entry.shape for name, entry in store.entries.items() if name not in scales}


def shapes_used(recipes: Mapping[str, Any]) -> list[str]:
    """Names of the stored tensors in recipes."""
    return [source for recipe in recipes.values() for source in recipe.sources()]


def _instantiate(config: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    from porting.frontends.checkpoint_binding import both_tied_stored
    from porting.frontends.checkpoint_graph import instantiate

    module = instantiate(config)
    if both_tied_stored(module, shapes):
        config.tie_word_embeddings = False
        module = instantiate(config)
    return module


def _digest(path: Path, store: WeightStore) -> str:
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for name, entry in sorted(store.entries.items()):
        place = (name, entry.dtype, entry.shape, entry.file.path.name, entry.offset, entry.length)
        digest.update(repr(place).encode())
    return digest.hexdigest()
