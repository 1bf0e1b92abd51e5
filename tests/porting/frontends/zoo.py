"""Tiny configs of many architectures, as keyword arguments of transformers' config classes, by model_type."""

from __future__ import annotations

from typing import Any

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
    "deepseek_v32": {**SMALL, **LATENT, "index_n_heads": 2, "index_head_dim": 24, "index_topk": 4},
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
