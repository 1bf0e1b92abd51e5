"""The committed byte model lies whole in DeepSeek's FP8 layout and predicts held-out text as well as recorded."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, DeepseekV3ForCausalLM

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "tiny_deepseek_v3"
ABSOLUTE_PATH = re.compile(rb"(?:/(?:home|root|tmp|work|usr|Users|opt|mnt|var)/|[A-Z]:\\\\)[\w./\\-]*")
COMMITTED = sorted(path for path in FOLDER.iterdir() if path.is_file())


def read_json(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    """Every tensor as it lies in the shards, each shard holding exactly what the index says."""
    tensors: dict[str, torch.Tensor] = {}
    weight_map = read_json("model.safetensors.index.json")["weight_map"]
    for shard in sorted(set(weight_map.values())):
        with safe_open(FOLDER / shard, "pt") as file:
            assert sorted(file.keys()) == sorted(name for name, where in weight_map.items() if where == shard)
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


@pytest.fixture(scope="module")
def fp8_layout() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        from examples.tiny_deepseek_v3 import fp8_layout
    return fp8_layout


@pytest.fixture(scope="module")
def perplexity() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        from examples.tiny_deepseek_v3 import perplexity
    return perplexity


@pytest.fixture(scope="module")
def dequantized(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """float32 under transformers' names, written apart from the example's own reader: block by block."""
    values: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith("_scale_inv"):
            continue
        values[name] = tensor.float()
        if tensor.dtype == torch.float8_e4m3fn:
            for (row, column), scale in zip(
                torch.cartesian_prod(*map(torch.arange, stored[name + "_scale_inv"].shape)).tolist(),
                stored[name + "_scale_inv"].flatten(),
                strict=True,
            ):
                values[name][row * 128 : row * 128 + 128, column * 128 : column * 128 + 128] *= scale
    experts = range(read_json("config.json")["n_routed_experts"])
    for layer in {name.split(".experts.0.")[0] for name in values if ".mlp.experts.0." in name}:
        parts = {
            part: torch.stack([values.pop(f"{layer}.experts.{e}.{part}_proj.weight") for e in experts])
            for part in ("gate", "up", "down")
        }
        values[f"{layer}.experts.gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], 1)
        values[f"{layer}.experts.down_proj"] = parts["down"]
    return values


@pytest.fixture(scope="module")
def model(dequantized: dict[str, torch.Tensor]) -> DeepseekV3ForCausalLM:
    config = AutoConfig.from_pretrained(FOLDER, attn_implementation="eager", experts_implementation="eager")
    loaded = DeepseekV3ForCausalLM(config)
    loaded.load_state_dict(dequantized, strict=True)
    loaded.train(False)
    return loaded


def test_index_counts_the_bytes_and_a_scale_lies_in_the_other_shard(stored: dict[str, torch.Tensor]) -> None:
    index = read_json("model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in stored.values())
    shards = index["weight_map"]
    assert [n for n in shards if n + "_scale_inv" in shards and shards[n] != shards[n + "_scale_inv"]]


def test_dtypes_and_scales_are_those_of_deepseek(stored: dict[str, torch.Tensor]) -> None:
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        if name.endswith("_scale_inv"):
            weight = stored[name.removesuffix("_scale_inv")]
            assert tensor.dtype == torch.float32
            assert tensor.shape == tuple(math.ceil(size / 128) for size in weight.shape)
            assert tensor.isfinite().all()
            assert (tensor > 0).all()
        elif name.endswith("e_score_correction_bias"):
            assert tensor.dtype == torch.float32
        elif module.endswith(("_proj", "_with_mqa")):
            assert tensor.dtype == torch.float8_e4m3fn, name
            assert name + "_scale_inv" in stored
            assert tensor.float().isfinite().all()
        else:
            assert tensor.dtype == torch.bfloat16, name
            assert re.search(r"embed_tokens|lm_head|norm|mlp\.gate", name), name
            assert name + "_scale_inv" not in stored


def test_some_blocks_are_ragged_in_either_direction_and_after_a_full_one(stored: dict[str, torch.Tensor]) -> None:
    shapes = {tuple(t.shape) for t in stored.values() if t.dtype == torch.float8_e4m3fn}
    assert {(96, 256), (256, 96), (160, 256), (384, 160), (112, 256)} <= shapes


def test_every_block_uses_the_whole_range(stored: dict[str, torch.Tensor]) -> None:
    """scale = absmax / 448, so the largest value of each block is 448 but for rounding of the division."""
    for name, scale in stored.items():
        if name.endswith("_scale_inv"):
            values = stored[name.removesuffix("_scale_inv")].float().abs()
            for row in range(scale.shape[0]):
                for column in range(scale.shape[1]):
                    block = values[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
                    assert block.max() == 448, (name, row, column)


def test_config_is_deepseek_v3_with_block_fp8_and_no_remote_code() -> None:
    config = read_json("config.json")
    assert config["quantization_config"] == {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
    assert "auto_map" not in config
    assert AutoConfig.from_pretrained(FOLDER).model_type == "deepseek_v3"
    assert config["rope_scaling"]["type"] == "yarn"
    assert config["routed_scaling_factor"] != 1


def test_correction_biases_are_trained(stored: dict[str, torch.Tensor]) -> None:
    biases = [tensor for name, tensor in stored.items() if name.endswith("e_score_correction_bias")]
    assert len(biases) == 5
    for bias in biases:
        assert bias.abs().max() > 0.01
        assert bias.unique().numel() > 2


def test_bias_changes_which_experts_are_chosen(model: DeepseekV3ForCausalLM) -> None:
    """On held-out text, in every layer; otherwise a reader that drops the bias would pass for right."""
    chosen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(gate: torch.nn.Module, inputs: tuple[torch.Tensor], output: tuple[torch.Tensor, ...]) -> None:
        bias = gate.get_buffer("e_score_correction_bias")
        gate.e_score_correction_bias = torch.nn.Buffer(torch.zeros_like(bias))
        without = gate.forward(*inputs)[2]
        gate.e_score_correction_bias = bias
        chosen.append((output[2].sort(1).values, without.sort(1).values))

    gates = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
    hooks = [gate.register_forward_hook(record) for gate in gates]
    ids = torch.tensor([list((FOLDER / "heldout.txt").read_bytes()[:256])])
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    assert len(chosen) == 5
    for with_bias, without in chosen:
        assert (with_bias != without).any(1).float().mean() > 0.02


def test_every_routed_expert_is_used_on_held_out_text(model: DeepseekV3ForCausalLM) -> None:
    loads: list[torch.Tensor] = []
    gates = [module for name, module in model.named_modules() if name.endswith("mlp.gate")]
    hooks = [
        g.register_forward_hook(lambda *a: loads.append(torch.bincount(a[2][2].flatten(), minlength=16))) for g in gates
    ]
    ids = torch.tensor(list((FOLDER / "heldout.txt").read_bytes()[:2048])).view(8, 256)
    with torch.no_grad():
        model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    assert torch.stack(loads).min() > 0


def test_perplexity_of_the_first_4096_bytes(model: DeepseekV3ForCausalLM, perplexity: ModuleType) -> None:
    """Same weights, same windows: what is left is the order of float32 sums and four decimals of the record.

    Blocks of 80 x 128 for the [2, 2] scales of a [160, 256] matrix, instead of 128 x 128, move it by 2.7e-3.
    """
    bits = perplexity.bits_per_byte(model, (FOLDER / "heldout.txt").read_bytes()[:4096])
    assert bits == pytest.approx(read_json("perplexity.json")["checkpoint_first_4096_bytes"]["bits_per_byte"], abs=5e-4)


@pytest.mark.slow
def test_perplexity_of_the_whole_held_out_text(model: DeepseekV3ForCausalLM, perplexity: ModuleType) -> None:
    bits = perplexity.bits_per_byte(model, (FOLDER / "heldout.txt").read_bytes())
    assert bits == pytest.approx(read_json("perplexity.json")["checkpoint"]["bits_per_byte"], abs=5e-4)


def test_committed_loss_is_far_below_a_unigram_model_and_close_to_the_unquantized(perplexity: ModuleType) -> None:
    figures = read_json("perplexity.json")
    text = (FOLDER / "heldout.txt").read_bytes()
    assert 32 * 1024 <= len(text) == figures["bytes"] <= 64 * 1024
    assert figures["unigram_bits_per_byte"] == pytest.approx(perplexity.unigram_bits(text), abs=1e-4)
    bits = figures["checkpoint"]["bits_per_byte"]
    assert bits < 0.5 * figures["unigram_bits_per_byte"]
    assert abs(bits - figures["trained_float32"]["bits_per_byte"]) < 0.02
    assert figures["checkpoint"]["perplexity_per_byte"] == pytest.approx(2**bits, rel=1e-3)


def test_loss_needs_the_order_of_the_bytes(model: DeepseekV3ForCausalLM, perplexity: ModuleType) -> None:
    text = torch.frombuffer(bytearray((FOLDER / "heldout.txt").read_bytes()[:1024]), dtype=torch.uint8)
    shuffled = text[torch.randperm(len(text), generator=torch.Generator().manual_seed(0))]
    ordered_bits = perplexity.bits_per_byte(model, text.numpy().tobytes())
    assert perplexity.bits_per_byte(model, shuffled.numpy().tobytes()) > 2 * ordered_bits


def test_example_reader_agrees_with_block_by_block_dequantization(
    fp8_layout: ModuleType, dequantized: dict[str, torch.Tensor]
) -> None:
    state = fp8_layout.read(FOLDER)
    assert state.keys() == dequantized.keys()
    assert all(torch.equal(state[name], dequantized[name]) for name in state)


@pytest.mark.parametrize("shape", [(128, 128), (96, 256), (160, 129), (1, 1)])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_quantize_is_within_half_a_step_of_e4m3(
    fp8_layout: ModuleType, shape: tuple[int, int], power_of_two: bool
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values, scale = fp8_layout.quantize(weight, power_of_two=power_of_two)
    assert scale.shape == tuple(math.ceil(size / 128) for size in shape)
    if power_of_two:
        assert (torch.frexp(scale).mantissa == 0.5).all()
    error = (fp8_layout.dequantize(values, scale) - weight).abs()
    # e4m3 keeps 4 significant bits: half a step is 2^-4 of the value, and 2^-10 of the scale among its subnormals.
    assert (error <= torch.maximum(weight.abs() * 2**-4, scale.max() * 2**-10) * (1 + 1e-6)).all()


def test_quantize_survives_an_all_zero_block(fp8_layout: ModuleType) -> None:
    values, scale = fp8_layout.quantize(torch.zeros(130, 4))
    assert scale.tolist() == [[1.0], [1.0]]
    assert (values.float() == 0).all()


def test_tokenizer_ids_are_the_bytes() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = "def f(x):\n\treturn  'é中'  # \x00\x7f\r\n"
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode("utf-8"))
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 256


def test_held_out_files_are_not_in_the_training_text() -> None:
    """The training text is made from the running interpreter's library: whatever its version, the split holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        from examples.tiny_deepseek_v3 import corpus
    training = corpus.training_bytes().numpy().tobytes()
    kept = [content for path, content in corpus.files() if corpus.held_out(path) and len(content) > 4096]
    assert len(kept) > 5
    assert all(content[1024:3072] not in training for content in kept)


def test_committed_files_stay_under_12_megabytes() -> None:
    assert sum(path.stat().st_size for path in COMMITTED) < 12_000_000
    assert {path.suffix for path in COMMITTED} <= {".json", ".md", ".py", ".safetensors", ".sh", ".txt"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_committed_file_names_no_machine(path: Path) -> None:
    if path.name != "heldout.txt":  # text of the standard library, which speaks of paths
        assert ABSOLUTE_PATH.findall(path.read_bytes()) == []
