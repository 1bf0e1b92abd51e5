"""Checkpoint folders of the shape of DeepSeek-V3 with headers but no data: sparse files that read as zeros.

python benchmarks/checkpoints.py FOLDER [--v32]   writes one: 163 shards, 641 GiB to look at, 13 MB on disk.

Names, shapes and types are those of the published checkpoints (huggingface.co/deepseek-ai/DeepSeek-V3); ``TENSORS`` and
``BYTES`` are the published totals, against which ``deepseek_v3`` is checked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SHARDS = 163
TENSORS, BYTES = 91_991, 688_574_839_360
ITEM_SIZE = {"F32": 4, "BF16": 2, "F8_E4M3": 1}
Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype as in a safetensors header, shape."""

LAYERS, DENSE, EXPERTS, HIDDEN, VOCABULARY = 61, 3, 256, 7168, 129280
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_hidden_layers": LAYERS,
    "num_nextn_predict_layers": 1,
    "first_k_dense_replace": DENSE,
    "moe_layer_freq": 1,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "hidden_size": HIDDEN,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "vocab_size": VOCABULARY,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
    },
    "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    },
}
CONFIG_V32 = CONFIG | {
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 2048,
}


def deepseek_v3(*, indexer: bool = False) -> Iterator[Tensor]:
    """Every tensor of DeepSeek-V3, layer 61 (multi-token prediction) included; with the indexer, of V3.2."""
    yield "model.embed_tokens.weight", "BF16", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS + 1):
        yield from _layer(f"model.layers.{layer}", dense=layer < DENSE, indexer=indexer)
    last = f"model.layers.{LAYERS}"
    yield f"{last}.eh_proj.weight", "BF16", (HIDDEN, 2 * HIDDEN)
    for name in ("enorm", "hnorm", "shared_head.norm"):
        yield f"{last}.{name}.weight", "BF16", (HIDDEN,)
    for name in ("embed_tokens", "shared_head.head"):
        yield f"{last}.{name}.weight", "BF16", (VOCABULARY, HIDDEN)
    yield "model.norm.weight", "BF16", (HIDDEN,)
    yield "lm_head.weight", "BF16", (VOCABULARY, HIDDEN)


def _layer(layer: str, *, dense: bool, indexer: bool) -> Iterator[Tensor]:
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield f"{layer}.{name}.weight", "BF16", (HIDDEN,)
    attention = f"{layer}.self_attn"
    yield from _quantized(f"{attention}.q_a_proj", 1536, HIDDEN)
    yield f"{attention}.q_a_layernorm.weight", "BF16", (1536,)
    yield from _quantized(f"{attention}.q_b_proj", 24576, 1536)
    yield from _quantized(f"{attention}.kv_a_proj_with_mqa", 576, HIDDEN)
    yield f"{attention}.kv_a_layernorm.weight", "BF16", (512,)
    yield from _quantized(f"{attention}.kv_b_proj", 32768, 512)
    yield from _quantized(f"{attention}.o_proj", HIDDEN, 16384)
    if indexer:
        yield from _quantized(f"{attention}.indexer.wq_b", 8192, 1536)
        yield from _quantized(f"{attention}.indexer.wk", 128, HIDDEN)
        yield f"{attention}.indexer.k_norm.weight", "F32", (128,)
        yield f"{attention}.indexer.k_norm.bias", "F32", (128,)
        yield f"{attention}.indexer.weights_proj.weight", "BF16", (64, HIDDEN)
    if dense:
        yield from _mlp(f"{layer}.mlp", 18432)
        return
    for expert in range(EXPERTS):
        yield from _mlp(f"{layer}.mlp.experts.{expert}", 2048)
    yield from _mlp(f"{layer}.mlp.shared_experts", 2048)
    yield f"{layer}.mlp.gate.weight", "BF16", (EXPERTS, HIDDEN)
    yield f"{layer}.mlp.gate.e_score_correction_bias", "F32", (EXPERTS,)


def _mlp(module: str, width: int) -> Iterator[Tensor]:
    yield from _quantized(f"{module}.gate_proj", width, HIDDEN)
    yield from _quantized(f"{module}.up_proj", width, HIDDEN)
    yield from _quantized(f"{module}.down_proj", HIDDEN, width)


def _quantized(module: str, rows: int, columns: int) -> Iterator[Tensor]:
    yield f"{module}.weight", "F8_E4M3", (rows, columns)
    yield f"{module}.weight_scale_inv", "F32", (-(-rows // 128), -(-columns // 128))


def size(tensor: Tensor) -> int:
    """Bytes of its data."""
    return math.prod(tensor[2]) * ITEM_SIZE[tensor[1]]


def write(folder: Path, tensors: Sequence[Tensor], config: dict[str, Any], *, shards: int = SHARDS) -> None:
    """A folder of sparse shards of about equal size, in the order of the tensors, with index and config."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(map(size, tensors))
    parts: list[list[Tensor]] = [[] for _ in range(shards)]
    done = 0
    for tensor in tensors:
        parts[min(done * shards // total, shards - 1)].append(tensor)
        done += size(tensor)
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{shards:06d}.safetensors"
        _write_shard(folder / file, part)
        weight_map |= {name: file for name, _, _ in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _write_shard(path: Path, tensors: Sequence[Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        name, dtype, shape = tensor
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (end, end + size(tensor))}
        end += size(tensor)
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + end)


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--v32", action="store_true", help="DeepSeek-V3.2, with the indexer")
    options = parser.parse_args()
    tensors = list(deepseek_v3(indexer=options.v32))
    write(options.folder, tensors, CONFIG_V32 if options.v32 else CONFIG)
    print(f"{len(tensors)} tensors, {sum(map(size, tensors)) / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
