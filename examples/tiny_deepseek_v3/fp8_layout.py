"""DeepSeek's FP8 checkpoint layout, written and read in plain torch.

Names, dtypes and rules are those of DeepSeek-V3's and V3.2's published weights: a linear weight [n, k] is stored as
float8_e4m3fn beside `<name>_scale_inv`, float32 [ceil(n/128), ceil(k/128)], by which each block is multiplied to get
the values back. Embeddings, head, norms, router and the indexer's head weights stay bfloat16, the selection bias is
float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BLOCK = 128
SUFFIX = "_scale_inv"
QUANTIZED = re.compile(
    r"\.self_attn\.(q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|indexer\.wq_b|indexer\.wk)\.weight$"
    r"|\.mlp\.((shared_experts|experts\.\d+)\.)?(gate|up|down)_proj\.weight$"
)
FLOAT32 = re.compile(r"\.e_score_correction_bias$")
QUANTIZATION: dict[str, Any] = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}


def quantize(weight: torch.Tensor, *, power_of_two: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Float [n, k] -> float8_e4m3fn [n, k], round to nearest even, and float32 [ceil(n/128), ceil(k/128)].

    scale = absmax of the block / 448, the largest e4m3 value; 1 where a block is all zero; with `power_of_two` raised
    to the next power of two. A ragged block counts as padded with zeros, which are not stored.
    """
    n, k = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -k % BLOCK, 0, -n % BLOCK))
    blocks = padded.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
    scale = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    scale[scale == 0] = 1.0
    if power_of_two:
        mantissa, exponent = torch.frexp(scale)
        scale = torch.ldexp(torch.ones_like(scale), torch.where(mantissa == 0.5, exponent - 1, exponent))
    values = (blocks / scale[:, None, :, None]).reshape(padded.shape)[:n, :k]
    return values.to(torch.float8_e4m3fn), scale


def dequantize(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """What `quantize` returned, as float32 [n, k]: every value times the scale of its 128 x 128 block."""
    n, k = values.shape
    spread = scale.repeat_interleave(BLOCK, 0)[:n].repeat_interleave(BLOCK, 1)[:, :k]
    return values.float() * spread


def per_expert(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """A state dict of transformers, whose experts are stacks, as DeepSeek names it: three matrices an expert."""
    for name, tensor in state.items():
        experts, _, kind = name.rpartition(".mlp.experts.")
        if not experts:
            yield name, tensor
            continue
        for e, matrix in enumerate(tensor):
            gate_up = kind == "gate_up_proj"
            parts = zip(("gate_proj", "up_proj"), matrix.chunk(2), strict=True) if gate_up else [(kind, matrix)]
            for part, weight in parts:
                yield f"{experts}.mlp.experts.{e}.{part}.weight", weight


def stacked(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `per_expert`."""
    state: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(\w+)\.weight", name):
            experts.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = tensor
        else:
            state[name] = tensor
    for prefix, parts in experts.items():
        ordered = [parts[e] for e in range(len(parts))]
        state[f"{prefix}.gate_up_proj"] = torch.stack([torch.cat([p["gate_proj"], p["up_proj"]]) for p in ordered])
        state[f"{prefix}.down_proj"] = torch.stack([p["down_proj"] for p in ordered])
    return state


def encode(
    state: Mapping[str, torch.Tensor], *, float32: re.Pattern[str] = FLOAT32, power_of_two: bool = False
) -> dict[str, torch.Tensor]:
    """A state dict of transformers (any float dtype) -> the tensors to store, each scale right after its weight.

    `float32` finds the names that stay in float32.
    """
    tensors = {}
    for name, tensor in per_expert(state):
        if QUANTIZED.search(name):
            tensors[name], tensors[name + SUFFIX] = quantize(tensor, power_of_two=power_of_two)
        else:
            tensors[name] = tensor.to(torch.float32 if float32.search(name) else torch.bfloat16).contiguous()
    return tensors


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], **quantization: Any) -> None:
    """config.json, two shards, their index and a byte tokenizer. The cut parts a weight from its scale.

    `quantization` is added to config.json's quantization_config.
    """
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    second, written = False, 0
    for name, tensor in tensors.items():
        shards[second][name] = tensor
        written += sizes[name]
        second = second or (written >= sum(sizes.values()) / 2 and name + SUFFIX in tensors)
    files = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, {"format": "pt"})
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / "config.json", {**config, "quantization_config": QUANTIZATION | quantization})
    write_tokenizer(folder, config["max_position_embeddings"])


def read(folder: Path) -> dict[str, torch.Tensor]:
    """A folder that `write` wrote, as a float32 state dict of transformers."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    values = {
        name: dequantize(tensor, tensors[name + SUFFIX]) if name + SUFFIX in tensors else tensor.float()
        for name, tensor in tensors.items()
        if not name.endswith(SUFFIX)
    }
    return stacked(values)


def write_tokenizer(folder: Path, longest: int) -> None:
    """A tokenizer whose ids are the bytes of the UTF-8 text: the byte-level alphabet and not one merge."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in letters)}
    tokenizer = Tokenizer(models.BPE(vocab={letters[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, content: Any) -> None:
    """`content` as indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
