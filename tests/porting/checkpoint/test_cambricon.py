"""SmoothQuant folders for MLU, read by an independent reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cambricon_reader import CambriconReader
from safetensors.torch import save_file

from porting.checkpoint.validation import validate
from porting.errors import UsageError

from .conftest import Convert
from .test_ascend import absmax_codes

KEPT = ("q_a_proj", "kv_a_proj_with_mqa", "kv_b_proj", "gate", "eh_proj", "lm_head", "embed_tokens")


def test_w8a8_codes_are_those_of_the_formula_and_smooth_is_one(
    converted: Convert, values: dict[str, torch.Tensor]
) -> None:
    out = converted("w8a8", "cambricon")
    reader = CambriconReader(out)
    modules = [name.removesuffix(".qweight") for name in reader.tensors if name.endswith(".qweight")]
    assert len(modules) == 3 * 2 + 3 + 2 * 3 * 3
    assert not [module for module in modules if module.rpartition(".")[2] in KEPT]
    for module in modules:
        weight = values[f"{module}.weight"].numpy()
        codes, scale = absmax_codes(weight)
        np.testing.assert_array_equal(reader.codes(module), codes, err_msg=module)
        np.testing.assert_array_equal(reader.tensors[f"{module}.per_channel_scale"], scale[:, 0], err_msg=module)
        np.testing.assert_array_equal(reader.tensors[f"{module}.smooth"], np.ones(weight.shape[1]), err_msg=module)
        assert f"{module}.weight" not in reader.tensors
    assert validate(out) == []


def test_config_keys_serve_both_runtimes(converted: Convert) -> None:
    out = converted("w8a8", "cambricon")
    quantization = json.loads((out / "config.json").read_text())["quantization_config"]
    assert quantization == {
        "quant_method": "smoothquant", "quant_mode": "SmoothQuant", "input_quant_method": "per_token", "bits": 8,
        "weight_precision": "int8", "activation_precision": "int8",
    }  # fmt: skip
    assert json.loads((out / "quantize_config.json").read_text()) == quantization


def test_w4a8_has_int4_experts_in_groups_and_pairs_of_columns(
    converted: Convert, values: dict[str, torch.Tensor]
) -> None:
    out = converted("w4a8", "cambricon")
    reader = CambriconReader(out)
    module = "model.layers.1.mlp.experts.1.gate_proj"
    weight = values[f"{module}.weight"].numpy()
    assert reader.tensors[f"{module}.qweight"].shape == (weight.shape[0], weight.shape[1] // 2)
    assert reader.tensors[f"{module}.per_channel_scale"].shape == (weight.shape[0], weight.shape[1] // 128)
    relative = np.linalg.norm(reader.weight(module) - weight) / np.linalg.norm(weight)
    assert 0.05 < relative < 0.12
    assert reader.codes("model.layers.1.mlp.shared_experts.gate_proj").max() > 7
    expected = {"group_size": 128, "only_expert_per_group": True, "expert_weight_precision": "int4",
                "experts_weight_bits": 4, "expert_activation_precision": "int8", "bits": 8}  # fmt: skip
    assert expected.items() <= reader.quantization.items()
    assert validate(out) == []


def test_experts_are_refused_where_weights_alone_are_quantized(converted: Convert) -> None:
    with pytest.raises(UsageError, match="no matrix of experts"):
        converted("w8a16", "cambricon")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A bfloat16 model without experts and with a tied head, of another family."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {"model.embed_tokens.weight": torch.randn(64, 96).bfloat16()}
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        tensors[f"model.layers.0.self_attn.{part}.weight"] = torch.randn(96, 96).bfloat16()
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.randn(96).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "qwen2", "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_weights_alone_of_a_dense_model(converted: Convert, dense: Path) -> None:
    out = converted("w8a16", "cambricon", folder=dense)
    reader = CambriconReader(out)
    assert reader.quantization == {"quant_method": "weightonly", "quant_mode": "WeightOnly", "bits": 8}
    assert reader.tensors["model.layers.0.self_attn.q_proj.qweight"].dtype == np.int8
    assert reader.tensors["model.layers.0.self_attn.q_proj.scales"].shape == (96,)
    assert "model.layers.0.self_attn.q_proj.bias" in reader.tensors
    assert validate(out) == []


def test_bf16_is_a_plain_checkpoint(converted: Convert, values: dict[str, torch.Tensor]) -> None:
    reader = CambriconReader(converted("bf16", "cambricon"))
    assert reader.quantization == {}
    assert set(reader.tensors) == set(values)
