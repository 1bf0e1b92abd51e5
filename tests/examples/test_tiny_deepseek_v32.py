"""The committed random model lies in DeepSeek-V3.2's FP8 layout and its indexer decides what attention sees."""

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
from transformers import AutoConfig, AutoTokenizer, DeepseekV32ForCausalLM

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "tiny_deepseek_v32"
INDEXER = {
    "wq_b.weight": torch.float8_e4m3fn,
    "wk.weight": torch.float8_e4m3fn,
    "k_norm.weight": None,
    "k_norm.bias": None,
    "weights_proj.weight": torch.bfloat16,
}
"""None: float32 in layer 0, bfloat16 in layer 1, as the published weights mix them."""


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


def loaded(fp8_layout: ModuleType, **overrides: Any) -> DeepseekV32ForCausalLM:
    config = AutoConfig.from_pretrained(
        FOLDER, attn_implementation="eager", experts_implementation="eager", **overrides
    )
    model = DeepseekV32ForCausalLM(config)
    model.load_state_dict(fp8_layout.read(FOLDER), strict=True)
    model.train(False)
    return model


def test_indexer_tensors_have_the_names_and_dtypes_of_v32(stored: dict[str, torch.Tensor]) -> None:
    for layer in (0, 1):
        prefix = f"model.layers.{layer}.self_attn.indexer."
        found = {n.removeprefix(prefix): t.dtype for n, t in stored.items() if n.startswith(prefix)}
        scales = {name + "_scale_inv": torch.float32 for name in ("wq_b.weight", "wk.weight")}
        norm = torch.bfloat16 if layer else torch.float32
        assert found == {name: dtype or norm for name, dtype in INDEXER.items()} | scales


def test_scales_are_float32_powers_of_two_of_the_right_shape(stored: dict[str, torch.Tensor]) -> None:
    assert read_json("config.json")["quantization_config"]["scale_fmt"] == "ue8m0"
    for name, tensor in stored.items():
        if tensor.dtype == torch.float8_e4m3fn:
            scale = stored[name + "_scale_inv"]
            assert scale.dtype == torch.float32
            assert scale.shape == tuple(math.ceil(size / 128) for size in tensor.shape)
            assert (torch.frexp(scale).mantissa == 0.5).all()
            assert 224 < tensor.float().abs().max() <= 448


def test_folder_is_whole(stored: dict[str, torch.Tensor]) -> None:
    index = read_json("model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in stored.values())
    shards = index["weight_map"]
    assert [n for n in shards if n + "_scale_inv" in shards and shards[n] != shards[n + "_scale_inv"]]
    assert read_json("config.json")["model_type"] == "deepseek_v32"
    assert "auto_map" not in read_json("config.json")
    assert len(AutoTokenizer.from_pretrained(FOLDER)) == 256
    assert all(t.abs().max() > 0.01 for n, t in stored.items() if n.endswith("e_score_correction_bias"))


def test_indexer_matters_beyond_index_topk_and_only_there(fp8_layout: ModuleType) -> None:
    """With index_topk raised above the length every key is seen: logits agree up to position 31 and part from 32 on."""
    ids = torch.randint(256, (1, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sparse = loaded(fp8_layout)(input_ids=ids, use_cache=False).logits[0]
        dense = loaded(fp8_layout, index_topk=96)(input_ids=ids, use_cache=False).logits[0]
    assert sparse.isfinite().all()
    difference = (sparse - dense).norm(dim=1) / dense.norm(dim=1)
    assert difference[:32].max() < 1e-5
    assert difference[40:].min() > 1e-2


@pytest.mark.parametrize("tensor", ["wq_b.weight", "wk.weight", "k_norm.weight", "k_norm.bias", "weights_proj.weight"])
def test_each_indexer_tensor_changes_the_logits(fp8_layout: ModuleType, tensor: str) -> None:
    """A reader that drops or misplaces one of them cannot pass for right."""
    ids = torch.randint(256, (1, 96), generator=torch.Generator().manual_seed(0))
    model = loaded(fp8_layout)
    with torch.no_grad():
        right = model(input_ids=ids, use_cache=False).logits
        parameter = model.get_parameter(f"model.layers.1.self_attn.indexer.{tensor}")
        parameter.copy_(parameter.roll(1, 0))
        assert (model(input_ids=ids, use_cache=False).logits - right).norm() > 1e-3 * right.norm()


def test_the_script_writes_the_committed_folder_again(
    fp8_layout: ModuleType, stored: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit but for what torch's normal generator and rounding give on another machine: at most one code step."""
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.tiny_deepseek_v32 import make

    monkeypatch.setattr("sys.argv", ["make.py", "--out", str(tmp_path)])
    make.main()
    for name in ("config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
    again, committed = fp8_layout.read(tmp_path), fp8_layout.read(FOLDER)
    assert again.keys() == committed.keys()
    for name, value in committed.items():
        torch.testing.assert_close(again[name], value, rtol=2**-3, atol=1e-4)


def test_committed_files_stay_under_one_and_a_half_megabytes() -> None:
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    assert {path.suffix for path in files} <= {".json", ".md", ".py", ".safetensors"}
    assert not [path.name for path in files if re.search(rb"/(?:home|root|tmp|work|Users)/", path.read_bytes())]
