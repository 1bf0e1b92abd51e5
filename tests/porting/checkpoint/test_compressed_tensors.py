"""compressed-tensors folders, read by that library itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from porting.checkpoint.comparison import compare
from porting.checkpoint.decoded import ConvertedFolder
from porting.checkpoint.source import Source
from porting.checkpoint.validation import validate

from .conftest import Convert
from .test_ascend import absmax_codes


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for file in sorted(set(index["weight_map"].values())):
        with safe_open(folder / file, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16", "w4a8", "w4a16-g128", "fp8-block", "mxfp8", "mxfp4"])
def test_the_library_dequantizes_to_the_same_values(
    scheme: str, converted: Convert, values: dict[str, torch.Tensor]
) -> None:
    pytest.importorskip("compressed_tensors", reason="the library is an extra of the tests")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils import match_targets

    out = converted(scheme, "compressed-tensors")
    tensors, config = read(out)
    parsed = QuantizationConfig.model_validate(config["quantization_config"])
    folder = ConvertedFolder(out)
    read_back = 0
    for name, value in values.items():
        module = name.removesuffix(".weight")
        if name in tensors and tensors[name].dtype in (torch.bfloat16, torch.float32):
            continue
        layer = torch.nn.Linear(1, 1, device="meta")
        targets = [target for group in parsed.config_groups.values() for target in group.targets]
        found = match_targets(module, layer, targets)
        group = next(each for each in parsed.config_groups.values() if found[0] in each.targets)
        parts = {key.removeprefix(f"{module}."): tensor for key, tensor in tensors.items()
                 if key.startswith(f"{module}.weight")}  # fmt: skip
        opened = BaseCompressor.load_from_registry(group.format).decompress(parts, group)
        ours = folder.decoded(name, tuple(value.shape))
        expected = ours.values(ours.read_codes(0, ours.rows), 0)
        torch.testing.assert_close(opened["weight"].float(), expected, rtol=1e-6, atol=0)
        read_back += 1
    assert read_back >= 20
    assert validate(out) == []


def test_w8a8_codes_are_those_of_the_formula(converted: Convert, values: dict[str, torch.Tensor]) -> None:
    tensors, config = read(converted("w8a8", "compressed-tensors"))
    group = config["quantization_config"]["config_groups"]["group_0"]
    assert group["targets"] == ["Linear"]
    assert group["format"] == "int-quantized"
    name = "model.layers.1.mlp.experts.0.down_proj.weight"
    codes, scale = absmax_codes(values[name].numpy())
    np.testing.assert_array_equal(tensors[name].numpy(), codes)
    np.testing.assert_array_equal(tensors[f"{name}_scale"].numpy(), scale)


def test_codes_of_the_whole_range_are_the_librarys_own(converted: Convert, values: dict[str, torch.Tensor]) -> None:
    """The library divides by 127.5; from float32 it makes the codes that are made here, bit for bit."""
    pytest.importorskip("compressed_tensors", reason="the library is an extra of the tests")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    tensors, _ = read(converted("w8a8", "compressed-tensors", whole=True))
    arguments = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    compared = 0
    for name, weight in values.items():
        if tensors.get(name, weight).dtype != torch.int8:
            continue
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        scale, zero = calculate_qparams(low, high, arguments)
        assert torch.equal(tensors[f"{name}_scale"], scale)
        assert torch.equal(tensors[name], quantize(weight, scale, zero, arguments, dtype=torch.int8))
        compared += 1
    assert compared >= 20


def test_ignored_are_the_linear_layers_in_float_and_not_gate_proj(converted: Convert) -> None:
    _, config = read(converted("w8a8", "compressed-tensors"))
    ignored = config["quantization_config"]["ignore"]
    assert {
        "lm_head",
        "model.layers.1.mlp.gate",
        "model.layers.0.self_attn.kv_b_proj",
        "model.layers.2.eh_proj",
    } <= set(ignored)
    assert "model.layers.1.mlp.gate_proj" not in ignored
    assert not [entry for entry in ignored if entry.startswith("re:")]


def test_w4a8_targets_experts_by_pattern(converted: Convert) -> None:
    _, config = read(converted("w4a8", "compressed-tensors"))
    groups = config["quantization_config"]["config_groups"]
    bits = {group["weights"]["num_bits"]: group["targets"] for group in groups.values()}
    assert set(bits) == {4, 8}
    assert "Linear" in bits[8] or "Linear" in bits[4]


def test_fp8_of_a_source_in_fp8_is_the_sources_bytes_renamed(converted: Convert, source_folder: Path) -> None:
    tensors, config = read(converted("fp8-block", "compressed-tensors"))
    original, _ = read(source_folder)
    name = "model.layers.1.mlp.experts.0.gate_proj.weight"
    assert torch.equal(tensors[name].view(torch.uint8), original[name].view(torch.uint8))
    assert torch.equal(tensors[f"{name}_scale"], original[f"{name}_scale_inv"])
    # 96 columns are no whole blocks: the format has no cut-off columns.
    ragged = "model.layers.1.self_attn.q_b_proj"
    assert tensors[f"{ragged}.weight"].dtype == torch.bfloat16
    assert ragged in config["quantization_config"]["ignore"]


def test_fp8_blocks_of_a_float_source_are_within_half_a_step(converted: Convert, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "float"
    folder.mkdir()
    torch.manual_seed(1)
    weight = torch.randn(300, 256)
    weight[:, 128:] *= 1000
    weight[0:128, 0:128] = 0
    save_file({"model.layers.0.mlp.up_proj.weight": weight}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    out = converted("fp8-block", "compressed-tensors", folder=folder)
    tensors, _ = read(out)
    name = "model.layers.0.mlp.up_proj.weight"
    scale = tensors[f"{name}_scale"]
    assert scale.shape == (3, 2)
    torch.testing.assert_close(scale[1, 1], weight[128:256, 128:].abs().max() / 448)
    spread = scale.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)
    error = (tensors[name].float() * spread - weight).abs()
    # Half a unit of three mantissa bits: 2**-4 of the number, or half of the least subnormal, 2**-10.
    assert (error <= torch.maximum(weight.abs() * 2**-4, spread * 2**-10) * 1.0001).all()
    assert compare(Source(folder), out).tensors[0].rel_l2 < 0.04
