"""Write a DeepSeek-V3.2 (MLA with the sparse-attention indexer) of two layers with seeded random weights, as FP8.

Run from the repository root: python -m examples.tiny_deepseek_v32.make   (seconds; same seed and torch, same files)

The layout is written by examples/tiny_deepseek_v3/fp8_layout.py. As in V3.2's own weights the scales are powers of two
in float32, and the indexer's key norm is float32 in the early layers, bfloat16 in the later ones.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM

from examples.tiny_deepseek_v3 import fp8_layout

HERE = Path(__file__).resolve().parent
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV32ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 160,
    "index_head_dim": 64,
    "index_n_heads": 16,  # few heads give scores that tie at zero, where two runtimes choose other keys
    "index_topk": 32,
    "initializer_range": 0.08,
    "intermediate_size": 288,
    "kv_lora_rank": 64,
    "max_position_embeddings": 1024,
    "model_type": "deepseek_v32",
    "moe_intermediate_size": 96,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 4.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 256,
        "type": "yarn",
    },
    "rope_theta": 10000.0,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 32,
    "vocab_size": 256,
}
FLOAT32 = re.compile(r"\.e_score_correction_bias$|\.layers\.0\.self_attn\.indexer\.k_norm\.")


def build() -> DeepseekV32ForCausalLM:
    """transformers' class in float32 with eager attention and experts, its own random weights."""
    model = DeepseekV32ForCausalLM(
        DeepseekV32Config(**CONFIG | {"attn_implementation": "eager", "experts_implementation": "eager"})
    )
    model.train(False)
    return model


def randomized() -> dict[str, torch.Tensor]:
    """The seeded weights; norms and biases too, which at their usual one and zero would hide faults."""
    torch.manual_seed(0)
    state = build().state_dict()
    for tensor in state.values():
        if tensor.ndim == 1:
            tensor += 0.1 * torch.randn_like(tensor)
    return state


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, default=HERE)
    folder = arguments.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    tensors = fp8_layout.encode(randomized(), float32=FLOAT32, power_of_two=True)
    fp8_layout.write(folder, CONFIG, tensors, scale_fmt="ue8m0")


if __name__ == "__main__":
    main()
