"""Train a small DeepSeek-V3 (8.4 million parameters) on Python's standard library and write it as DeepSeek writes FP8.

Run from the repository root: python -m examples.tiny_deepseek_v3.train   (at most 40 minutes on two cores)

The classes are transformers' own. Each step splits its batch over two Python threads with one core each: torch releases
the interpreter lock, and products as small as these run faster so than with two threads inside every product.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

from examples.tiny_deepseek_v3 import fp8_layout
from examples.tiny_deepseek_v3.corpus import held_out_text, training_bytes
from examples.tiny_deepseek_v3.muon import Muon
from examples.tiny_deepseek_v3.perplexity import STRIDE, WINDOW, bits_per_byte, unigram_bits

HERE = Path(__file__).resolve().parent
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 640,
    "kv_lora_rank": 96,
    "max_position_embeddings": 1024,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 96,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 16,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 8,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 8,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": 160,
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
    "routed_scaling_factor": 1.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "v_head_dim": 32,
    "vocab_size": 256,
}
SEQUENCE, SEQUENCES, THREADS = 256, 8, 2
WARMUP, DECAY = 50, 0.4  # steps; share of the run at whose end the rate is zero
MATRIX_RATE, OTHER_RATE = 0.02, 3e-3
# The router learns slowly enough for the balancing to follow: at ten times its rate one expert took every token.
ROUTER_RATE, BALANCE_SPEED = 3e-4, 5e-3


def build(experts: str) -> DeepseekV3ForCausalLM:
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(**CONFIG | {"attn_implementation": "eager", "experts_implementation": experts})
    )


def gates(model: nn.Module) -> list[DeepseekV3TopkRouter]:
    return [module for module in model.modules() if isinstance(module, DeepseekV3TopkRouter)]


def optimizers(model: nn.Module, pool: ThreadPoolExecutor) -> list[torch.optim.Optimizer]:
    routers, others, single, gate_up = [], [], [], []
    for name, p in model.named_parameters():
        if name.endswith(".mlp.gate.weight"):
            routers.append(p)
        elif p.ndim < 2 or "embed_tokens" in name or "lm_head" in name:
            others.append(p)
        elif name.endswith("experts.gate_up_proj"):
            gate_up.append(p)
        else:
            single.append(p)
    muon = Muon([{"params": single}, {"params": gate_up, "parts": 2}], MATRIX_RATE, pool)
    rest: list[dict[str, Any]] = [{"params": others}, {"params": routers, "lr": ROUTER_RATE}]
    return [muon, torch.optim.AdamW(rest, OTHER_RATE, (0.9, 0.95), weight_decay=0.0)]


def rate_at(step: int, steps: int) -> float:
    """Share of the full rate: linear warm-up, constant, linear decay. The constant part does not depend on `steps`."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))


def balance(model: nn.Module, loads: dict[DeepseekV3TopkRouter, torch.Tensor], speed: float) -> None:
    """Moves each expert's selection bias up when it got fewer tokens than the mean, down when more (no loss term)."""
    for gate in gates(model):
        load = loads[gate].float()
        gate.e_score_correction_bias.add_(torch.sign(load.mean() - load), alpha=speed)


def train(steps: int, state_file: Path | None) -> DeepseekV3ForCausalLM:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data, probe = training_bytes(), held_out_text(8192)
    model = build("grouped_mm")  # per core and in bfloat16 1.6 times as fast as experts one by one
    pool = ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,))
    optimizing = optimizers(model, pool)
    full_rates = [group["lr"] for o in optimizing for group in o.param_groups]
    parameters = list(model.parameters())
    counts: list[tuple[nn.Module, torch.Tensor]] = []
    for gate in gates(model):
        gate.register_forward_hook(lambda g, _, out: counts.append((g, torch.bincount(out[2].flatten(), minlength=16))))

    def gradient(ids: torch.Tensor) -> tuple[float, tuple[torch.Tensor, ...]]:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # a cache would be shared by the threads
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        return loss.item(), torch.autograd.grad(loss, parameters)

    first = 0
    if state_file and state_file.exists():
        saved: dict[str, Any] = torch.load(state_file)
        model.load_state_dict(saved["model"])
        for o, state in zip(optimizing, saved["optimizers"], strict=True):
            o.load_state_dict(state)
        first = saved["step"]
    groups = [group for o in optimizing for group in o.param_groups]
    began, recent = time.monotonic(), []
    for step in range(first, steps):
        for group, full_rate in zip(groups, full_rates, strict=True):
            group["lr"] = full_rate * rate_at(step, steps)
        places = torch.Generator().manual_seed(step)
        starts = torch.randint(len(data) - SEQUENCE, (SEQUENCES,), generator=places)
        batch = torch.stack([data[s : s + SEQUENCE + 1] for s in starts]).long()
        parts = list(pool.map(gradient, batch.chunk(THREADS)))
        for p, *grads in zip(parameters, *(g for _, g in parts), strict=True):
            p.grad = sum(grads) / THREADS
        for o in optimizing:
            o.step()
        loads = {gate: torch.stack([c for g, c in counts if g is gate]).sum(0) for gate in gates(model)}
        counts.clear()
        balance(model, loads, BALANCE_SPEED * rate_at(step, steps))
        recent.append(sum(loss for loss, _ in parts) / THREADS / math.log(2))
        if (step + 1) % 20 == 0 or step + 1 == steps:
            busiest = max((load.max() / load.float().mean()).item() for load in loads.values())
            speed = (step + 1 - first) * SEQUENCE * SEQUENCES / (time.monotonic() - began)
            loss, minutes = sum(recent) / len(recent), (time.monotonic() - began) / 60
            print(
                f"step {step + 1}/{steps}  {loss:.3f} bits/byte  busiest expert {busiest:.1f} x mean"
                f"  {speed:.0f} bytes/s  {minutes:.1f} min",
                flush=True,
            )
            recent.clear()
        if (step + 1) % 200 == 0:
            print(f"  held out: {bits_per_byte(model, probe):.3f} bits/byte", flush=True)
            counts.clear()
        if state_file and ((step + 1) % 50 == 0 or step + 1 == steps):
            optimizer_states = [o.state_dict() for o in optimizing]
            saved = {"model": model.state_dict(), "optimizers": optimizer_states, "step": step + 1}
            torch.save(saved, state_file.with_suffix(".new"))
            state_file.with_suffix(".new").replace(state_file)
    return model


def evaluate(state: dict[str, torch.Tensor], text: bytes) -> dict[str, float]:
    """Bits per byte and perplexity of a byte, by transformers' eager model in float32."""
    model = build("eager")
    model.train(False)
    model.load_state_dict(state)
    bits = bits_per_byte(model, text)
    return {"bits_per_byte": round(bits, 4), "perplexity_per_byte": round(2**bits, 4)}


def finish(model: DeepseekV3ForCausalLM, steps: int, folder: Path) -> None:
    """Writes the checkpoint, the held-out text and what both models make of it."""
    text = held_out_text(64 * 1024)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "heldout.txt").write_bytes(text)
    fp8_layout.write(folder, CONFIG, fp8_layout.encode(model.state_dict()))
    stored = fp8_layout.read(folder)
    figures = {
        "text": "heldout.txt",
        "bytes": len(text),
        "window": WINDOW,
        "stride": STRIDE,
        "model": "transformers, eager attention and experts, float32",
        "checkpoint": evaluate(stored, text),
        "checkpoint_first_4096_bytes": evaluate(stored, text[:4096]),
        "trained_float32": evaluate(model.state_dict(), text),
        "unigram_bits_per_byte": round(unigram_bits(text), 4),
        "training": {
            "steps": steps,
            "bytes": steps * SEQUENCE * SEQUENCES,
            "corpus_bytes": len(training_bytes()),
            "corpus_sha256": hashlib.sha256(training_bytes().numpy().tobytes()).hexdigest(),
            "python": platform.python_version(),
            "torch": torch.__version__.partition("+")[0],
            "transformers": transformers.__version__,
        },
    }
    fp8_layout.write_json(folder / "perplexity.json", figures)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=1500)
    arguments.add_argument("--state", type=Path, help="file to continue from and to save to every 50 steps")
    arguments.add_argument("--out", type=Path, default=HERE)
    options = arguments.parse_args()
    finish(train(options.steps, options.state), options.steps, options.out)


if __name__ == "__main__":
    main()
