"""The truth of a checkpoint: transformers' own eager model in float32, fed with the dequantized weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from porting.frontends.checkpoint_binding import Binding
from porting.frontends.checkpoint_graph import instantiate, materialize
from porting.frontends.checkpoint_recipe import to_view
from porting.frontends.source import Arrays, Reference
from porting.weights import WeightStore


def open_reference(config: Any, binding: Binding, store: WeightStore) -> Reference:
    """The whole model in memory, eager attention and eager experts: one at a time, by indexing."""
    module = instantiate(config, experts="eager")
    fill(module, binding, store)

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        with torch.inference_mode():
            ids = torch.from_numpy(np.ascontiguousarray(inputs["input_ids"]))
            logits = module(input_ids=ids, use_cache=False).logits
        return {"logits": logits.to(torch.float32).numpy()}

    return Reference("transformers, eager, float32", run)


def fill(module: Any, binding: Binding, store: WeightStore, prefix: str = "") -> None:
    """Give a module on the meta device its weights, and the buffers that are computed. Tied parameters stay one.

    prefix: where the module stands in the model, with a dot at its end.
    """
    materialize(module)  # first: it initializes the weights beside the buffers too, if they are there
    made: dict[int, torch.Tensor] = {}
    for name, empty in module.state_dict(keep_vars=True).items():
        if id(empty) not in made:
            tensor = to_view(binding.recipes[prefix + name], store, empty.dtype).tensor()
            made[id(empty)] = torch.nn.Parameter(tensor, False) if isinstance(empty, torch.nn.Parameter) else tensor
        owner = module.get_submodule(name.rpartition(".")[0])
        slots = owner._parameters if isinstance(empty, torch.nn.Parameter) else owner._buffers
        slots[name.rpartition(".")[2]] = made[id(empty)]
