"""int4 in groups for MLU, in GPTQ's layout, read by an independent reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cambricon_reader import CambriconReader
from safetensors import safe_open
from safetensors.torch import save_file

from porting.checkpoint import blocks, rows
from porting.checkpoint.comparison import compare
from porting.checkpoint.conversion import Conversion, convert, dry_run
from porting.checkpoint.decoded import ConvertedFolder
from porting.checkpoint.planning import plan
from porting.checkpoint.shard_file import ShardFile
from porting.checkpoint.source import Source
from porting.checkpoint.validation import detect, validate
from porting.errors import InvalidModelError, UsageError
from porting.quantization.scheme_map import read_scheme_map

from .conftest import Convert
from .test_conversion import contents
from .test_validation import edit, faults, retensor

SCHEME = "w4a16-g128"
SIZES = {
    "self_attn.q_proj": (256, 256), "self_attn.k_proj": (72, 256), "self_attn.v_proj": (72, 256),
    "self_attn.o_proj": (256, 256), "mlp.gate_proj": (384, 256), "mlp.up_proj": (384, 256),
    "mlp.down_proj": (256, 384),
}  # fmt: skip
MODULES = [f"model.layers.{layer}.{part}" for layer in (0, 1) for part in SIZES]
UP = "model.layers.1.mlp.up_proj"
OUT = "model.layers.0.self_attn.o_proj"
EXPERT = "model.layers.0.mlp.experts.3"
Tensors = dict[str, torch.Tensor]


def dense() -> Tensors:
    """A bfloat16 model without experts."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(96, 256).bfloat16() for name in ("model.embed_tokens.weight", "lm_head.weight")}
    tensors["model.norm.weight"] = torch.ones(256).bfloat16()
    for module in MODULES:
        tensors[f"{module}.weight"] = torch.randn(SIZES[module[15:]]).mul(0.02).bfloat16()
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.randn(256).bfloat16()
    return tensors


def write(folder: Path, tensors: Tensors, family: str = "qwen2", dtype: str = "bfloat16") -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": family, "torch_dtype": dtype}))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("dense") / "source", dense())


@pytest.fixture
def out(converted: Convert, source: Path) -> Path:
    return converted(SCHEME, "cambricon", folder=source)


def bfloat16(values: np.ndarray) -> np.ndarray:
    return torch.from_numpy(values).bfloat16().float().numpy()


def test_codes_and_scales_are_those_of_a_search_for_the_least_error(out: Path) -> None:
    """Of absmax / 7 by 64ths: the best of each fourth, then of its neighbours; its codes; the scale rounded last."""
    reader, tensors = CambriconReader(out), dense()
    for module in MODULES:
        weight = tensors[f"{module}.weight"].float().numpy()
        groups = weight.reshape(len(weight), -1, 128)
        codes = reader.codes(module).reshape(groups.shape)
        base = np.abs(groups).max(-1) / np.float32(7)
        scales = base[..., None] * (np.arange(1, 65, dtype=np.float32) / np.float32(64))
        tried = np.clip(np.rint(groups[..., None, :] / scales[..., None]), -8, 7)
        errors = np.square(tried * scales[..., None].astype(np.float64) - groups[..., None, :]).sum(-1)
        stored = reader.tensors[f"{module}.scales"].T[..., None]
        # Neighbours are 1.5 % apart at least, four steps of bfloat16: exactly one of them rounds to what is stored.
        chosen = bfloat16(scales) == stored
        assert (chosen.sum(-1) == 1).all()
        np.testing.assert_array_equal(codes, tried[chosen].reshape(codes.shape), err_msg=module)
        coarse = errors[..., 3::4]
        equal = coarse <= coarse.min(-1, keepdims=True) * (1 + 1e-6)
        best = np.where(equal, np.arange(3, 64, 4), 0).max(-1)  # Of equal ones the larger scale.
        near = np.abs(np.arange(64) - best[..., None]) <= 3
        least = np.where(near, errors, np.inf).min(-1)
        # The search sums in float32: of two that are as good as equal it may take the other.
        np.testing.assert_allclose(errors[chosen], least.reshape(-1), rtol=1e-5)


def test_types_and_shapes_are_those_of_the_loader(out: Path) -> None:
    found = CambriconReader(out).tensors
    with safe_open(out / "model.safetensors", "pt") as opened:
        assert opened.get_tensor(f"{UP}.scales").dtype == torch.bfloat16
    for module in MODULES:
        n, k = SIZES[module[15:]]
        assert found[f"{module}.qweight"].dtype == found[f"{module}.qzeros"].dtype == np.int32
        assert found[f"{module}.qweight"].shape == (k // 8, n)
        assert found[f"{module}.scales"].shape == (k // 128, n)
        np.testing.assert_array_equal(found[f"{module}.qzeros"], np.full((k // 128, n // 8), 0x77777777))
        np.testing.assert_array_equal(found[f"{module}.g_idx"], np.arange(k, dtype=np.int32) // 128)
        assert found[f"{module}.g_idx"].dtype == np.int32
    others = {name for name in dense() if name.removesuffix(".weight") not in MODULES}
    assert set(found) == others | {f"{m}.{part}" for m in MODULES for part in ("qweight", "scales", "qzeros", "g_idx")}
    assert validate(out) == []
    assert detect(out) == "cambricon"


def test_config_keys(out: Path) -> None:
    quantization = json.loads((out / "config.json").read_text())["quantization_config"]
    assert quantization == {
        "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "lm_head": False,
    }  # fmt: skip
    assert json.loads((out / "quantize_config.json").read_text()) == quantization


def test_float16_has_a_least_scale_and_its_own_type(converted: Convert, tmp_path: Path) -> None:
    weight = torch.randint(-7, 8, (8, 256)).float()
    weight[:, ::128] = 7.0
    scale = torch.rand(8, 1) + 0.5
    zero = weight * scale
    zero[3, 128:] = 0
    folder = write(tmp_path / "source", {f"{UP}.weight": zero}, dtype="float16")
    out = converted(SCHEME, "cambricon", folder=folder)
    with safe_open(out / "model.safetensors", "pt") as opened:
        stored = opened.get_tensor(f"{UP}.scales")
    expected = scale.half().expand(8, 2).T.clone()
    expected[1, 3] = 2.0**-24
    assert torch.equal(stored, expected)
    weight[3, 128:] = 0
    np.testing.assert_array_equal(CambriconReader(out).codes(UP), weight.numpy())
    assert validate(out) == []


def test_bytes_do_not_depend_on_threads_and_memory(
    out: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(out)
    monkeypatch.setattr(rows, "SCRATCH", 1 << 10)
    runs: list[int] = []
    put_apart = ShardFile.put_apart

    def counted(self: ShardFile, offset: int, data: memoryview, run: int, stride: int) -> None:
        runs.append(run)
        put_apart(self, offset, data, run, stride)

    monkeypatch.setattr(ShardFile, "put_apart", counted)
    for threads, block in ((1, 64 << 10), (4, 24 << 10), (2, 1 << 20)):
        memory = blocks.PROCESS + 2 * (threads + 4) * block
        runs.clear()
        cut = tmp_path / f"{threads}"
        convert(Conversion(Source(source), SCHEME, ("cambricon",)), cut, threads=threads, memory=memory)
        assert contents(cut) == whole
        assert bool(runs) == (block < 1 << 20), "whole weights come at once, where there is memory for them"
        found = dry_run(Conversion(Source(source), SCHEME, ("cambricon",)), threads=threads, memory=memory)
        assert list(found["files"]) == ["model.safetensors"]


def test_codes_are_those_of_compressed_tensors_beside_it(converted: Convert, source: Path) -> None:
    out = converted(SCHEME, "cambricon", "compressed-tensors", folder=source)
    reader, other = CambriconReader(out / "cambricon"), ConvertedFolder(out / "compressed-tensors")
    for module in MODULES:
        decoded = other.decoded(f"{module}.weight", SIZES[module[15:]])
        np.testing.assert_array_equal(reader.codes(module), decoded.read_codes(0, decoded.rows).numpy())
        assert decoded.scale is not None
        np.testing.assert_array_equal(reader.tensors[f"{module}.scales"].T, bfloat16(decoded.scale.numpy()))


def test_the_plan_gives_the_size_that_is_written(out: Path, source: Path) -> None:
    found = plan(Conversion(Source(source), SCHEME, ("cambricon",)))
    assert found.disk == (out / "model.safetensors").stat().st_size
    lines = {line.pattern: line for line in found.formats[0].lines}
    assert lines["model.layers.*.mlp.up_proj.weight"].stored == "int4 g128 mse"
    assert lines["model.layers.*.mlp.up_proj.weight"].nbytes == 2 * 384 * (256 // 2 + 2 * (2 + 0.5)) + 2 * 4 * 256
    assert lines["lm_head.weight"].stored == "float"


def test_what_is_read_back_is_what_the_independent_reader_reads(out: Path, source: Path) -> None:
    reader, folder, tensors = CambriconReader(out), ConvertedFolder(out), dense()
    errors = {each.name: each.rel_l2 for each in compare(Source(source), out, threads=2).tensors}
    for module in MODULES:
        name, weight = f"{module}.weight", reader.weight(module)
        decoded = folder.decoded(name, SIZES[module[15:]])
        assert not folder.quantizes_activations(name)
        for first, last in ((0, decoded.rows), (3, 4), (17, 64)):
            found = decoded.values(decoded.read_codes(first, last), first)
            np.testing.assert_array_equal(found.numpy(), weight[first:last], err_msg=module)
        original = tensors[name].double().numpy()
        expected = np.linalg.norm(weight - original) / np.linalg.norm(original)
        assert errors[name] == pytest.approx(expected, rel=1e-4)
        assert 0.05 < expected < 0.12
    assert errors["lm_head.weight"] == 0


def put(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.ones(shape).bfloat16()})


REFUSED: dict[str, tuple[str, Callable[[Tensors], object], str, str]] = {
    "experts": ("qwen3_moe", put(f"{EXPERT}.up_proj.weight", 256, 256), "routed experts", "experts.3"),
    "a stack of experts": ("gpt_oss", put(f"{EXPERT[:-2]}.down_proj", 4, 256, 256), "routed experts", "down"),
    "columns": ("qwen2", put(f"{OUT}.weight", 256, 192), "128 divides", "192 columns"),
    "rows": ("qwen2", put(f"{OUT}.weight", 252, 256), "rows that 8 divides", "252, 256"),
    "no rows": ("qwen2", put(f"{OUT}.weight", 0, 256), "rows that 8 divides", "0, 256"),
    "a layer that stays in float": (
        "minicpm3", put("model.layers.0.self_attn.kv_b_proj.weight", 256, 128), "no list", "latent attention",
    ),
    "a router": ("qwen2_moe", put("model.layers.0.mlp.shared_expert_gate.weight", 1, 256), "no list", "one row"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_loader_cannot_take_is_refused(case: str, tmp_path: Path) -> None:
    family, change, message, met = REFUSED[case]
    tensors = dense()
    change(tensors)
    folder = write(tmp_path / "source", tensors, family)
    with pytest.raises(UsageError, match=message) as caught:
        Conversion(Source(folder), SCHEME, ("cambricon",)).layouts()
    text = str(caught.value)
    assert "gptq_mlu.py" in text
    assert "--scheme" in text
    assert met in text


@pytest.mark.parametrize("scheme, message", [("none", "no list"), ("w8a16", "cannot be int4")])
def test_a_map_with_exceptions_is_refused(scheme: str, message: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({r"model\.layers\.1\.mlp\.down_proj": scheme}))
    with pytest.raises(UsageError, match=message) as caught:
        Conversion(Source(source), SCHEME, ("cambricon",), read_scheme_map(path)).layouts()
    assert "model.layers.1.mlp.down_proj.weight" in str(caught.value)


STORED: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "zero points of eight": (lambda t: t[f"{UP}.qzeros"].fill_(-0x77777778), "qzeros: other values"),
    "columns out of order": (lambda t: t.update({f"{UP}.g_idx": t[f"{UP}.g_idx"].flip(0)}), "g_idx: other values"),
    "no groups": (lambda t: t.pop(f"{UP}.g_idx"), "g_idx: missing"),
    "a scale of zero": (lambda t: t[f"{UP}.scales"][0].zero_(), "finite scales above zero"),
    "scales of another type": (lambda t: t.update({f"{UP}.scales": t[f"{UP}.scales"].float()}), "scales: F32"),
    "codes that are not transposed": (
        lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"].T}), r"up_proj\.(scales|qzeros)",
    ),
    "codes of bytes": (lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"].view(torch.int8)}), "I32 of two axes"),
    "columns that groups do not divide": (
        lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"][:24]}), "columns that 128 divides",
    ),
    "rows that words do not divide": (
        lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"][:, :380]}), "rows that 8 divides",
    ),
    "a layer in float": (
        lambda t: t.update({f"{UP}.weight": t.pop(f"{UP}.qweight").bfloat16()}), r"up_proj\.qweight: missing",
    ),
    "a float beside its codes": (put(f"{UP}.weight", 384, 256), "weight beside qweight"),
    "a quantized head": (lambda t: t.update({"lm_head.qweight": t[f"{UP}.qweight"].clone()}), "no linear layer to"),
    "a quantized expert": (
        lambda t: t.update({f"{EXPERT}.w1.qweight": t[f"{UP}.qweight"].clone()}), "no routed experts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STORED)
def test_what_is_wrong_with_the_tensors_is_named(case: str, out: Path) -> None:
    change, message = STORED[case]

    def changed(tensors: Tensors) -> None:
        change(tensors)

    retensor(out, changed)
    found = faults(out)
    assert found
    assert any(re.search(message, fault) for fault in found), found


CONFIGURED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "asymmetric": (lambda c: c.update(sym=False), "sym: False; required: True"),
    "in order of activations": (lambda c: c.update(desc_act=True), "desc_act: True"),
    "a quantized head": (lambda c: c.update(lm_head=True), "lm_head: True"),
    "groups of another size": (lambda c: c.update(group_size=32), "group_size: 32; required: 64 or 128 or 256 or 512"),
    "groups that are not those of the scales": (lambda c: c.update(group_size=64), r"up_proj\.scales: BF16"),
    "no bits": (lambda c: c.pop("bits"), "bits: None"),
    "true for one": (lambda c: c.update(sym=1), "sym: 1"),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_what_is_wrong_with_config_is_named(case: str, out: Path) -> None:
    change, message = CONFIGURED[case]
    edit(out / "config.json", lambda config: change(config["quantization_config"]))  # type: ignore[arg-type]
    found = faults(out)
    assert any(re.search(message, fault) for fault in found), found


@pytest.mark.parametrize("key, value", [("sym", False), ("desc_act", True), ("bits", 8), ("group_size", -1)])
def test_gptq_of_another_kind_is_not_read(key: str, value: object, out: Path) -> None:
    edit(out / "config.json", lambda config: config["quantization_config"].update({key: value}))
    with pytest.raises(InvalidModelError, match="another kind"):
        ConvertedFolder(out).decoded(f"{UP}.weight", (384, 256))


def test_codes_of_another_weight_are_not_read(out: Path) -> None:
    with pytest.raises(InvalidModelError, match="another size"):
        ConvertedFolder(out).decoded(f"{UP}.weight", (256, 384))
