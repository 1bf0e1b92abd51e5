"""The truth of a checkpoint: transformers' own eager model in float32, fed with the dequantized weights.

It shares the reading of weights with the graph, and nothing of the graph. A model that is too large to hold is run by
the same forward with one decoder layer's weights in memory at a time, and of stacked experts only the one in use.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from porting.frontends.checkpoint_binding import Binding
from porting.frontends.checkpoint_graph import instantiate, materialize
from porting.frontends.checkpoint_recipe import to_view
from porting.frontends.source import Arrays, Reference
from porting.weights.store import WeightStore
from porting.weights.view import WeightView

LARGEST_WHOLE = 4 << 30
"""Bytes of float32 parameters above which a model is run layer by layer."""


def open_reference(config: Any, binding: Binding, store: WeightStore, *, largest: int = LARGEST_WHOLE) -> Reference:
    """Eager attention and eager experts, which go one by one over those that were hit.

    largest: bytes of parameters to hold whole; a larger model reads its weights again for every sample.
    """
    module = instantiate(config, experts="eager")
    materialize(module)  # before weights are there: it would initialize those beside the buffers too
    whole = sum(parameter.nbytes for parameter in module.parameters()) <= largest
    if whole:
        fill(module, binding, store)
    else:
        stream(module, binding, store)
    lock = threading.Lock()  # a streamed layer has its weights for one caller

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        with torch.inference_mode(), lock:
            ids = torch.from_numpy(np.ascontiguousarray(inputs["input_ids"]))
            logits = module(input_ids=ids, use_cache=False).logits
        return {"logits": logits.to(torch.float32).numpy()}

    return Reference("transformers, eager, float32" + ("" if whole else ", a layer at a time"), run)


def fill(module: Any, binding: Binding, store: WeightStore, prefix: str = "") -> None:
    """Give a module on the meta device its weights; tied ones stay one.

    prefix: where the module stands in the model, with a dot at its end.
    """
    made: dict[int, torch.Tensor] = {}
    for name, empty in module.state_dict(keep_vars=True).items():
        if id(empty) not in made:
            tensor = to_view(binding.recipes[prefix + name], store, empty.dtype).tensor()
            made[id(empty)] = torch.nn.Parameter(tensor, False) if isinstance(empty, torch.nn.Parameter) else tensor
        owner, key = _place(module, name)
        slots = owner._parameters if isinstance(empty, torch.nn.Parameter) else owner._buffers
        slots[key] = made[id(empty)]


def stream(module: Any, binding: Binding, store: WeightStore) -> None:
    """Let each decoder layer, and each module outside of them, read its weights before its forward and drop them after.

    Persistent buffers are small and stay.
    """
    for name, buffer in module.state_dict(keep_vars=True).items():
        if not isinstance(buffer, torch.nn.Parameter):
            owner, key = _place(module, name)
            owner._buffers[key] = to_view(binding.recipes[name], store, buffer.dtype).tensor()
    for name, unit in list(_units(module, set(module._no_split_modules or ()))):
        prefix = f"{name}." if name else ""
        unit.register_forward_pre_hook(lambda unit, _, prefix=prefix: _enter(unit, binding, store, prefix))
        unit.register_forward_hook(lambda unit, *_: _leave(unit))


def _units(module: Any, layers: set[str]) -> Iterator[tuple[str, Any]]:
    """Decoder layers, and what has parameters of its own outside of them."""
    pending = [("", module)]
    while pending:
        name, part = pending.pop()
        if type(part).__name__ in layers:
            yield name, part
            continue
        if part._parameters:
            yield name, part
        pending += [(f"{name}.{child}".lstrip("."), inner) for child, inner in part.named_children()]


def _enter(unit: Any, binding: Binding, store: WeightStore, prefix: str) -> None:
    unit._empty = dict(unit.named_parameters(remove_duplicate=False))
    for name, empty in unit._empty.items():
        view = to_view(binding.recipes[prefix + name], store, empty.dtype)
        owner, key = _place(unit, name)
        if hasattr(owner, "is_transposed") and empty.dim() == 3:  # transformers marks its classes of stacked experts so
            del owner._parameters[key]
            owner.__dict__[key] = _Experts(view)
        else:
            owner._parameters[key] = torch.nn.Parameter(view.tensor(), False)


def _leave(unit: Any) -> None:
    for name, empty in unit.__dict__.pop("_empty").items():
        owner, key = _place(unit, name)
        owner.__dict__.pop(key, None)
        owner._parameters[key] = empty


class _Experts:
    """Stands for a parameter [experts, ...] of which a forward takes one expert at a time."""

    def __init__(self, view: WeightView) -> None:
        self._view = view

    def __getitem__(self, expert: int | torch.Tensor) -> torch.Tensor:
        return self._view.part(int(expert)).tensor()


def _place(module: Any, name: str) -> tuple[Any, str]:
    """The submodule that owns a parameter, and what it calls it."""
    path, _, key = name.rpartition(".")
    return module.get_submodule(path), key
