"""The streamed reference is the whole one, bit for bit, and holds nothing afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from porting.frontends import checkpoint, checkpoint_graph, checkpoint_reference
from porting.frontends.checkpoint_binding import bind
from porting.weights.store import WeightStore

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "tie_word_embeddings": True},
    "gemma3_text": {**SMALL, "head_dim": 8},
    "mixtral": {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "gpt2": {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_streamed_reference_equals_whole(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    written = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[kind](**CONFIGS[kind]))
    written.save_pretrained(tmp_path)
    made = []
    instantiate = checkpoint_graph.instantiate
    monkeypatch.setattr(
        checkpoint_reference, "instantiate", lambda *a, **k: made.append(instantiate(*a, **k)) or made[-1]
    )
    config, store = checkpoint.read_config(tmp_path), WeightStore(tmp_path)
    binding = bind(instantiate(config), checkpoint.stored_shapes(store))
    whole = checkpoint_reference.open_reference(config, binding, store)
    streamed = checkpoint_reference.open_reference(config, binding, store, largest=0)
    ids = {"input_ids": np.random.default_rng(0).integers(0, 48, (2, 11))}
    assert streamed.name.endswith("a layer at a time")
    assert not any(parameter.is_meta for parameter in made[0].parameters())
    for _ in range(2):
        assert np.array_equal(streamed(ids)["logits"], whole(ids)["logits"])
        assert all(parameter.is_meta for parameter in made[1].parameters())
