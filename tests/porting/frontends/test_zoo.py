"""Tiny models of many architectures, written by transformers, imported, and run: logits equal its eager ones.

Each is run at two shapes other than the one that is traced, and none is traced with weights. The reference that a
source brings is held to the same logits.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from porting import frontends
from porting.errors import InvalidModelError
from porting.simulation.interpreter import Interpreter

transformers = pytest.importorskip("transformers")

# fmt: off
SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS = {"head_dim": 8}
GPT = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 10000.0,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "tie_word_embeddings": True},
    "qwen2": SMALL,
    "qwen3": {**SMALL, **HEADS},
    "mistral": {**SMALL, **HEADS, "sliding_window": 4},
    "phi3": SMALL,
    "gemma2": {**SMALL, **HEADS, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        **SMALL,
        **HEADS,
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "glm4": {**SMALL, **HEADS},
    "granite": {**SMALL, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "olmo2": SMALL,
    "starcoder2": {**SMALL, "sliding_window": 4},
    "stablelm": SMALL,
    "cohere": SMALL,
    "gpt_neox": {**SMALL, "rotary_pct": 0.5},
    "gpt2": GPT,
    "smollm3": {**SMALL, "no_rope_layers": [1, 0]},
    "mixtral": {**SMALL, "num_local_experts": 6},
    "qwen2_moe": {**SMALL, **EXPERTS, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 1},
    "qwen3_moe": {**SMALL, **HEADS, **EXPERTS, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "glm4_moe": {
        **SMALL,
        **HEADS,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "gpt_oss": {**SMALL, **HEADS, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 4},
    "deepseek_v2": {**SMALL, **LATENT, "topk_method": "group_limited_greedy", "norm_topk_prob": False},
    "deepseek_v3": {**SMALL, **LATENT, "rope_parameters": YARN},
    # So many heads that no two keys of the indexer score exactly 0, where transformers and ONNX choose differently.
    "deepseek_v32": {**SMALL, **LATENT, "index_n_heads": 16, "index_head_dim": 24, "index_topk": 4},
    "olmoe": {**SMALL, "num_experts": 6, "num_experts_per_tok": 2},
    "granitemoe": {**SMALL, "num_local_experts": 6, "num_experts_per_tok": 2},
    "ernie4_5_moe": {
        **SMALL,
        "moe_num_experts": 6,
        "moe_k": 2,
        "moe_intermediate_size": 24,
        "moe_layer_start_index": 1,
        "moe_num_shared_experts": 1,
    },
}
# fmt: on

REFUSED = {"deepseek_v2": "complex"}
"""Architectures that do not export, and a word of the reason: its rotation is written in complex numbers."""
QUICK = ("llama", "deepseek_v3", "gpt_oss")
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name not in REFUSED]
TOLERANCE = 1e-4
"""Relative L2 in float32: two orders above what reordered sums of these widths give, far below any wrong weight."""


def write(folder: Path, kind: str, **changes: Any) -> Any:
    """A model with random weights, none of them at a default, saved to the folder."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**{**CONFIGS[kind], **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    for parameter in model.parameters():
        scale = 0.2 if parameter.dim() < 2 else parameter.shape[-1] ** -0.5
        parameter.data = parameter.data * (parameter.dim() < 2) + scale * torch.randn(parameter.shape)
    for name, buffer in model.named_buffers():
        if "correction_bias" in name:
            buffer.copy_(0.2 * torch.randn(buffer.shape))
    model.eval().save_pretrained(folder)
    return model


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def distance(got: Any, expected: torch.Tensor) -> float:
    return float((torch.as_tensor(got) - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", ALL)
def test_imported_model_equals_eager(kind: str, tmp_path: Path) -> None:
    model = write(tmp_path, kind)
    source = frontends.load(str(tmp_path))
    assert source.kind == "checkpoint"
    assert not source.not_in_graph
    run = Interpreter(source.model).run
    for shape in ((1, 9), (3, 6)):
        ids = torch.randint(3, 96, shape)
        expected = logits_of(model, ids)
        assert expected.abs().max() > 0
        assert distance(run({"input_ids": ids})["logits"], expected) < TOLERANCE
        assert distance(source.reference({"input_ids": ids.numpy()})["logits"], expected) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_export_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    write(tmp_path, kind)
    with pytest.raises(InvalidModelError, match="does not export") as caught:
        frontends.load(str(tmp_path))
    assert REFUSED[kind] in str(caught.value.met)
