"""AscendV1 folders, read by an independent reader."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from ascend_reader import AscendReader

from porting.checkpoint.validation import validate
from porting.errors import UsageError
from porting.quantization.scheme_map import read_scheme_map

from .conftest import Convert

LINEAR = "model.layers.1.self_attn.o_proj.weight"
EXPERT = "model.layers.1.mlp.experts.0.{}_proj.weight"


def absmax_codes(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The published formula: scale = absmax / 127, q = round(w / scale), in float32."""
    scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
    return np.clip(np.rint(weight / scale), -128, 127).astype(np.int8), scale


def test_w8a8_codes_are_those_of_the_formula_from_float32(converted: Convert, values: dict[str, torch.Tensor]) -> None:
    reader = AscendReader(converted("w8a8", "ascend"))
    quantized = [name for name in values if reader.types[name] == "W8A8_DYNAMIC"]
    assert len(quantized) == 3 * 4 + 3 + 2 * 3 * 3
    for name in quantized:
        codes, scale = absmax_codes(values[name].numpy())
        np.testing.assert_array_equal(reader.codes(name), codes, err_msg=name)
        np.testing.assert_array_equal(reader.tensors[f"{name}_scale"], scale, err_msg=name)


def test_every_tensor_is_described_layer_for_two_tokens_and_shared_heads_too(
    converted: Convert, values: dict[str, torch.Tensor]
) -> None:
    reader = AscendReader(converted("w8a8", "ascend"))
    assert set(reader.tensors) <= set(reader.types)
    assert set(values) <= set(reader.types)
    assert set(reader.types) - set(reader.tensors) == {
        "model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight",
    }  # fmt: skip
    assert reader.globals["model_quant_type"] == "W8A8_DYNAMIC"
    assert reader.globals["version"] == "1.0.0"
    assert reader.types["model.layers.1.mlp.experts.0.gate_proj.weight_offset"] == "W8A8_DYNAMIC"
    assert reader.total_size == sum(
        2 * tensor.size if tensor.dtype == np.float32 and reader.types[name] == "FLOAT" and "bias" not in name
        else tensor.nbytes for name, tensor in reader.tensors.items()
    )  # fmt: skip


def test_what_stays_is_bfloat16_rounded_once_and_the_routers_bias_float32(
    converted: Convert, values: dict[str, torch.Tensor]
) -> None:
    reader = AscendReader(converted("w8a8", "ascend"))
    name = "model.layers.0.self_attn.kv_b_proj.weight"
    assert reader.types[name] == "FLOAT"
    np.testing.assert_array_equal(reader.weight(name), values[name].bfloat16().float().numpy())
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    np.testing.assert_array_equal(reader.weight(bias), values[bias].numpy())


def test_w4a8_has_int4_experts_in_pairs_of_rows_and_their_scale_bias(
    converted: Convert, values: dict[str, torch.Tensor]
) -> None:
    reader = AscendReader(converted("w4a8", "ascend"))
    assert reader.globals["model_quant_type"] == "W4A8_DYNAMIC"
    assert reader.types[LINEAR] == reader.types["model.layers.1.mlp.shared_experts.up_proj.weight"] == "W8A8_DYNAMIC"
    for part, slices in (("gate", 1), ("up", 1), ("down", 16)):
        name = EXPERT.format(part)
        weight = values[name].numpy()
        assert reader.types[name] == "W4A8_DYNAMIC"
        assert reader.tensors[name].shape == (weight.shape[0] // 2, weight.shape[1])
        error = np.linalg.norm(reader.weight(name) - weight, axis=1)
        scale = np.abs(weight).max(1, keepdims=True) / 7
        by_absmax = np.linalg.norm(np.clip(np.rint(weight / scale), -8, 7) * scale - weight, axis=1)
        assert (error <= by_absmax * (1 + 1e-6)).all(), "the search is never worse than absmax"
        assert error.sum() < 0.95 * by_absmax.sum(), "and better on a normal distribution"
        bias = reader.tensors[name.removesuffix(".weight") + ".scale_bias"]
        assert bias.shape == (len(weight), slices)
        np.testing.assert_allclose(bias, reader.bias(name), rtol=1e-6, atol=1e-7)


def test_w8a16_and_bf16_say_so(converted: Convert, values: dict[str, torch.Tensor]) -> None:
    reader = AscendReader(converted("w8a16", "ascend"))
    assert reader.types[LINEAR] == "W8A16"
    np.testing.assert_array_equal(reader.codes(LINEAR), absmax_codes(values[LINEAR].numpy())[0])


def test_bf16_is_all_float(converted: Convert, values: dict[str, torch.Tensor]) -> None:
    reader = AscendReader(converted("bf16", "ascend"))
    assert set(reader.types.values()) == {"FLOAT"}
    for name, value in values.items():
        expected = value if name.endswith("_bias") else value.bfloat16().float()
        np.testing.assert_array_equal(reader.weight(name), expected.numpy(), err_msg=name)


@pytest.mark.parametrize("scheme, kind, bits", [("mxfp8", "W8A8_MXFP8", 8), ("mxfp4", "W4A4_MXFP4", 4)])
def test_microscaling_says_so_and_gives_the_standards_numbers(
    scheme: str, kind: str, bits: int, converted: Convert, values: dict[str, torch.Tensor]
) -> None:
    out = converted(scheme, "ascend")
    reader = AscendReader(out)
    assert reader.globals["model_quant_type"] == kind
    assert reader.globals["group_size"] == 32
    name = EXPERT.format("down")
    assert reader.types[name] == reader.types[f"{name}_scale"] == kind
    weight = values[name].numpy().reshape(-1, 32)
    element, greatest, top = (
        (ml_dtypes.float8_e4m3fn, 448, 8) if bits == 8 else (ml_dtypes.float4_e2m1fn, 6, 2)
    )  # fmt: skip
    scale = np.exp2(np.floor(np.log2(np.abs(weight).max(1, keepdims=True))) - top)
    elements = np.clip(weight / scale, -greatest, greatest).astype(element).astype(np.float32)
    stored = reader.tensors[name]
    if bits == 4:
        nibbles = np.stack([stored & 15, stored >> 4], axis=-1).reshape(len(stored), -1).astype(np.uint8)
        stored = nibbles.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(stored.reshape(-1, 32), elements)
    np.testing.assert_array_equal(np.exp2(reader.tensors[f"{name}_scale"].reshape(-1, 1).astype(int) - 127.0), scale)
    assert validate(out) == []


def test_documents_beside_the_weights(converted: Convert) -> None:
    out = converted("w8a8", "ascend")
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["model_type"] == "deepseek_v3"
    files = {path.name for path in out.iterdir()}
    assert {"tokenizer.json", "generation_config.json", "conversion.json"} <= files
    assert "model.safetensors.index.json" not in files
    assert sorted(name for name in files if name.endswith(".safetensors")) == [
        f"quant_model_weights-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    assert validate(out, digests=True) == []


def test_a_map_cannot_make_attention_int4(converted: Convert, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{".*layers.0.mlp.down_proj": "w4a16-g128"}')
    with pytest.raises(UsageError, match=r"int4 is for routed experts(.|\n)*down_proj"):
        converted("w8a8", "ascend", scheme_map=read_scheme_map(path))


def test_a_map_keeps_modules_in_float(converted: Convert, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{".*layers.0.mlp.down_proj": "none"}')
    reader = AscendReader(converted("w8a8", "ascend", scheme_map=read_scheme_map(path)))
    assert reader.types["model.layers.0.mlp.down_proj.weight"] == "FLOAT"
    assert reader.types["model.layers.0.mlp.up_proj.weight"] == "W8A8_DYNAMIC"
