"""A small checkpoint in the layout of DeepSeek-V3: float8 blocks, ragged ones, a layer for two tokens, odd scales.

Written and dequantized with plain torch and the safetensors library, by deepseek-ai/DeepSeek-V3:README_WEIGHTS.md.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HIDDEN, WIDTH, EXPERTS = 256, 128, 2
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_hidden_layers": 2,
    "num_nextn_predict_layers": 1,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128],
    },
}  # fmt: skip


def write(
    folder: Path, *, shards: int = 3, seed: int = 0, config: dict[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """Make the folder; returns every weight as float32, dequantized here."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = tensors(seed)
    names = list(stored)
    # A weight and its scale lie in different files where the cut falls between them.
    cuts = [len(names) * number // shards for number in range(shards + 1)]
    weight_map = {}
    for number, (begin, end) in enumerate(itertools.pairwise(cuts), 1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file({name: stored[name] for name in names[begin:end]}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names[begin:end], file)
    total = sum(tensor.nbytes for tensor in stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "generation_config.json").write_text("{}")
    return {name: value(stored, name) for name in names if not name.endswith("_scale_inv")}


def value(stored: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A weight as float32: code times the scale of its block of 128 x 128."""
    weight = stored[name]
    scale = stored.get(f"{name}_scale_inv")
    if scale is None:
        return weight.float()
    spread = scale.float().repeat_interleave(128, 0).repeat_interleave(128, 1)
    return weight.float() * spread[: weight.shape[0], : weight.shape[1]]


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor by name, as stored."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor] = {}

    def plain(name: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> None:
        found[name] = torch.randn(shape, generator=generator).mul(0.05).to(dtype)

    def blocks(module: str, rows: int, columns: int, *, power: bool = True) -> None:
        codes = torch.randn(rows, columns, generator=generator).mul(100).clamp(-448, 448).to(torch.float8_e4m3fn)
        exponents = torch.randint(-14, -10, (-(-rows // 128), -(-columns // 128)), generator=generator)
        found[f"{module}.weight"] = codes
        found[f"{module}.weight_scale_inv"] = torch.exp2(exponents.float()) * (1.0 if power else 1.3228756)

    def mlp(module: str, width: int) -> None:
        blocks(f"{module}.gate_proj", width, HIDDEN)
        blocks(f"{module}.up_proj", width, HIDDEN)
        blocks(f"{module}.down_proj", HIDDEN, width)

    plain("model.embed_tokens.weight", 320, HIDDEN)
    for number in range(3):
        layer = f"model.layers.{number}"
        plain(f"{layer}.input_layernorm.weight", HIDDEN)
        blocks(f"{layer}.self_attn.q_a_proj", 96, HIDDEN)
        plain(f"{layer}.self_attn.q_a_layernorm.weight", 96)
        blocks(f"{layer}.self_attn.q_b_proj", 192, 96)
        blocks(f"{layer}.self_attn.kv_a_proj_with_mqa", 144, HIDDEN)
        blocks(f"{layer}.self_attn.kv_b_proj", 256, 128)
        blocks(f"{layer}.self_attn.o_proj", HIDDEN, 160, power=False)
        if number == 0:
            mlp(f"{layer}.mlp", 384)
            continue
        for expert in range(EXPERTS):
            mlp(f"{layer}.mlp.experts.{expert}", WIDTH)
        mlp(f"{layer}.mlp.shared_experts", WIDTH)
        plain(f"{layer}.mlp.gate.weight", EXPERTS, HIDDEN)
        plain(f"{layer}.mlp.gate.e_score_correction_bias", EXPERTS, dtype=torch.float32)
    plain("model.layers.2.eh_proj.weight", HIDDEN, 2 * HIDDEN)
    plain("model.layers.2.enorm.weight", HIDDEN)
    plain("model.norm.weight", HIDDEN)
    plain("lm_head.weight", 320, HIDDEN)
    return found
