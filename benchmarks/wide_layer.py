"""One mixture-of-experts layer of DeepSeek-V3's true widths through port and verify, within a memory limit.

python benchmarks/wide_layer.py [--backend reference] [--scheme none] [--experts 32] [--tokens 64] [--memory 2GiB]
                                [--folder DIR]

Makes a checkpoint of one layer in FP8 with random codes (hidden 7168, expert width 2048; 1.4 GB of experts), then runs
`porting port`, `porting simulate` and `porting verify`, each in a process of its own, and prints seconds, peak memory
and bytes per second. Bar: peak below 8 GiB in float32, 16 GiB with a scheme. Random weights have no parity budget: with
a scheme the verdict says nothing, the fidelity does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIG: dict[str, Any] = {
    "model_type": "deepseek_v3", "vocab_size": 512, "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 1, "num_attention_heads": 128, "num_key_value_heads": 128,
    "n_shared_experts": 1, "n_routed_experts": 32, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
    "first_k_dense_replace": 0, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128, "v_head_dim": 128, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
    "max_position_embeddings": 4096, "num_nextn_predict_layers": 0,
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
}  # fmt: skip


def tensors(experts: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and stored dtype, as DeepSeek stores them."""
    h, layer = CONFIG["hidden_size"], "model.layers.0."
    linears = {
        "self_attn.q_a_proj": (1536, h), "self_attn.q_b_proj": (24576, 1536),
        "self_attn.kv_a_proj_with_mqa": (576, h), "self_attn.kv_b_proj": (32768, 512), "self_attn.o_proj": (h, 16384),
    }  # fmt: skip
    for part in ("mlp.shared_experts", *(f"mlp.experts.{e}" for e in range(experts))):
        linears |= {f"{part}.gate_proj": (2048, h), f"{part}.up_proj": (2048, h), f"{part}.down_proj": (h, 2048)}
    norms = {"input_layernorm": h, "post_attention_layernorm": h, "self_attn.q_a_layernorm": 1536,
             "self_attn.kv_a_layernorm": 512}  # fmt: skip
    found: dict[str, tuple[tuple[int, ...], str]] = {
        "model.embed_tokens.weight": ((512, h), "BF16"), "lm_head.weight": ((512, h), "BF16"),
        "model.norm.weight": ((h,), "BF16"), f"{layer}mlp.gate.weight": ((experts, h), "BF16"),
        f"{layer}mlp.gate.e_score_correction_bias": ((experts,), "F32"),
    }  # fmt: skip
    found |= {f"{layer}{name}.weight": ((size,), "BF16") for name, size in norms.items()}
    for name, (rows, columns) in linears.items():
        found[f"{layer}{name}.weight"] = ((rows, columns), "F8_E4M3")
        found[f"{layer}{name}.weight_scale_inv"] = ((-(-rows // 128), -(-columns // 128)), "F32")
    return found


def write(folder: Path, experts: int) -> int:
    """The checkpoint, tensor by tensor. Returns its bytes."""
    rng = np.random.default_rng(0)
    size = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
    header, end = {}, 0
    for name, (shape, dtype) in tensors(experts).items():
        length = int(np.prod(shape)) * size[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
        end += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in tensors(experts).items():
            count = int(np.prod(shape))
            if dtype == "F8_E4M3":  # magnitudes around 1 to 8, either sign
                codes = rng.integers(0x38, 0x51, count, dtype=np.uint8) | (rng.integers(0, 2, count, np.uint8) << 7)
                file.write(codes.tobytes())
            elif name.endswith("_scale_inv"):
                file.write(rng.uniform(2e-3, 4e-3, count).astype("<f4").tobytes())
            elif dtype == "F32":
                file.write(rng.uniform(-0.1, 0.1, count).astype("<f4").tobytes())
            else:
                values = np.ones(count) if "norm" in name else rng.standard_normal(count) * 0.05
                file.write((values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes())
    (folder / "config.json").write_text(json.dumps({**CONFIG, "n_routed_experts": experts}))
    return end


def timed(*arguments: object) -> tuple[float, float, str]:
    """Seconds, peak GiB and last lines of a porting command."""
    path = str(ROOT)
    start = time.perf_counter()
    command = [sys.executable, "-m", "porting", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    # Peaks of children only grow: the largest so far is what a line shows.
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="reference")
    parser.add_argument("--scheme", default="none")
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--folder", type=Path, help="where to work; 8 GB of space")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "source").mkdir()
        size = write(folder / "source", options.experts)
        ids = np.random.default_rng(1).integers(0, 512, (1, options.tokens))
        np.savez(folder / "ids.npz", input_ids=ids)
        print(f"source: {size / 1e9:.2f} GB in FP8")
        common = ("--memory", options.memory, "--threads", 1)
        for label, arguments in (
            ("port", ("port", folder / "source", "--backend", options.backend, "--scheme", options.scheme,
                      "--inputs", folder / "ids.npz", "-o", folder / "out", *common)),
            ("simulate", ("simulate", folder / "out", "--inputs", folder / "ids.npz", "--outputs", folder / "y.npz",
                          "--memory", options.memory)),
            ("verify", ("verify", folder / "out", *common)),
        ):  # fmt: skip
            seconds, peak, text = timed(*arguments)
            print(f"{label}: {seconds:.1f} s, {size / seconds / 1e6:.0f} MB of source a second, peak {peak:.2f} GiB")
            print("\n".join("  " + line for line in text.splitlines()[:9]))


if __name__ == "__main__":
    main()
