"""Every breach of a loader's contract is named, entry by entry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from porting.checkpoint.comparison import compare
from porting.checkpoint.source import Source
from porting.checkpoint.validation import detect, validate
from porting.errors import InvalidModelError

from .conftest import Convert

ATTENTION = "model.layers.1.self_attn"
EXPERT = "model.layers.1.mlp.experts.1"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], stem: str = "model") -> None:
    """Rewrite a folder as one file, with the index told of it."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        path.unlink()
    change(tensors)
    file = f"{stem}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(tensors, file)}
    (folder / f"{file}.index.json").write_text(json.dumps(index))


def faults(folder: Path, **options: bool) -> list[str]:
    return [str(fault) for fault in validate(folder, **options)]


def test_a_rewritten_folder_is_still_in_order(converted: Convert) -> None:
    out = converted("w4a8", "ascend")
    retensor(out, lambda tensors: None, "quant_model_weights")
    assert faults(out) == []


DESCRIBED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a tensor without entry": (
        lambda d: d.pop("model.layers.2.eh_proj.weight"),
        r"model\.layers\.2\.eh_proj\.weight: no entry",
    ),
    "an entry without tensor": (
        lambda d: d.update({"model.layers.9.x.weight": "FLOAT"}),
        r"layers\.9\.x\.weight: no such tensor",
    ),
    "an unknown type": (lambda d: d.update({f"{ATTENTION}.o_proj.weight": "W2A2"}), r"o_proj\.weight: W2A2"),
    "int8 called float": (lambda d: d.update({f"{ATTENTION}.o_proj.weight": "FLOAT"}), r"o_proj\.weight: I8;.*float"),
    "float called int8": (
        lambda d: d.update({"model.layers.1.mlp.gate.weight": "W8A8_DYNAMIC"}),
        r"mlp\.gate\.weight.*BF16",
    ),
    "fused members that differ": (
        lambda d: d.update({f"{ATTENTION}.q_a_proj.weight": "W8A16"}),
        r"q_a_proj|kv_a_proj.*fused",
    ),
    "groups": (lambda d: d.update(group_size=128), "group_size: 128"),
    "a scale of another type": (
        lambda d: d.update({f"{ATTENTION}.o_proj.weight_scale": "FLOAT"}),
        r"weight_scale: FLOAT",
    ),
    "int4 outside of experts": (
        lambda d: d.update({f"{ATTENTION}.o_proj.weight": "W4A8_DYNAMIC"}),
        r"on routed experts only",
    ),
}


@pytest.mark.parametrize("case", DESCRIBED)
def test_what_is_wrong_with_a_description_is_named(case: str, converted: Convert) -> None:
    change, message = DESCRIBED[case]
    out = converted("w8a8", "ascend")
    edit(out / "quant_model_description.json", change)
    found = faults(out)
    assert found
    assert re.search(message, "\n".join(found)), found


STORED: dict[str, tuple[str, str, Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no offset": ("w8a8", "ascend", lambda t: t.pop(f"{ATTENTION}.o_proj.weight_offset"), "weight_offset: missing"),
    "a scale that is NaN": (
        "w8a8",
        "ascend",
        lambda t: t[f"{ATTENTION}.o_proj.weight_scale"].fill_(torch.nan),
        "finite scales",
    ),
    "no bias of int4": ("w4a8", "ascend", lambda t: t.pop(f"{EXPERT}.down_proj.scale_bias"), "scale_bias: missing"),
    "one sum for sixteen": (
        "w4a8",
        "ascend",
        lambda t: t.update({f"{EXPERT}.down_proj.scale_bias": torch.ones(256, 1)}),
        r"F32 \[256, 16\]",
    ),
    "no smooth": ("w8a8", "cambricon", lambda t: t.pop(f"{EXPERT}.up_proj.smooth"), r"up_proj\.smooth: missing"),
    "smooths that differ": (
        "w8a8",
        "cambricon",
        lambda t: t[f"{EXPERT}.gate_proj.smooth"].fill_(2.0),
        "gate_proj.smooth: other values",
    ),
    "an expert in float": (
        "w8a8",
        "cambricon",
        lambda t: t.update({f"{EXPERT}.up_proj.weight": t.pop(f"{EXPERT}.up_proj.qweight").bfloat16()}),
        r"up_proj\.qweight: missing",
    ),
    "no scale": (
        "w8a8",
        "compressed-tensors",
        lambda t: t.pop(f"{EXPERT}.up_proj.weight_scale"),
        "weight_scale: missing",
    ),
    "float that is not ignored": (
        "w8a8",
        "compressed-tensors",
        lambda t: t.update({f"{EXPERT}.up_proj.weight": t[f"{EXPERT}.up_proj.weight"].bfloat16()}),
        "place among the ignored",
    ),
    "no shape of packed words": (
        "w4a16-g128",
        "compressed-tensors",
        lambda t: t.pop(f"{EXPERT}.up_proj.weight_shape"),
        "weight_shape: missing",
    ),
    "scales of the source": (
        "w8a8",
        "compressed-tensors",
        lambda t: t.update({f"{EXPERT}.up_proj.weight_scale_inv": torch.ones(1, 2)}),
        "no scales of the source",
    ),
    "a negative scale": ("w8a8", "sglang", lambda t: t[f"{EXPERT}.up_proj.weight_scale"].neg_(), "finite scales"),
    "float8 beside int8": (
        "w8a8",
        "sglang",
        lambda t: t.update({"model.extra": torch.ones(2).to(torch.float8_e4m3fn)}),
        "no float8 beside",
    ),
}


@pytest.mark.parametrize("case", STORED)
def test_what_is_wrong_with_the_tensors_is_named(case: str, converted: Convert) -> None:
    scheme, form, change, message = STORED[case]
    out = converted(scheme, form)

    def changed(tensors: dict[str, torch.Tensor]) -> None:
        change(tensors)

    retensor(out, changed, "quant_model_weights" if form == "ascend" else "model")
    found = faults(out)
    assert re.search(message, "\n".join(found)), found


CONFIGURED: dict[str, tuple[str, str, Callable[[dict[str, Any]], object], str]] = {
    "beside a description": ("w8a8", "ascend", lambda c: c.update(quantization_config={}), "no quantization_config"),
    "a group of one": (
        "w8a8",
        "cambricon",
        lambda c: c["quantization_config"].update(group_size=1),
        "absent without groups",
    ),
    "no bits": ("w8a8", "cambricon", lambda c: c["quantization_config"].pop("bits"), "bits: None"),
    "the trap of mlp.gate": (
        "w8a8",
        "compressed-tensors",
        lambda c: c["quantization_config"]["ignore"].append("re:.*mlp.*gate"),
        "gate_proj: quantized; required: a float weight",
    ),
    "nothing ignored": ("w8a8", "compressed-tensors", lambda c: c["quantization_config"].update(ignore=[]), "lm_head"),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_what_is_wrong_with_config_is_named(case: str, converted: Convert) -> None:
    scheme, form, change, message = CONFIGURED[case]
    out = converted(scheme, form)
    edit(out / "config.json", change)  # type: ignore[arg-type]
    assert message in "\n".join(faults(out)), faults(out)


def test_a_stray_weight_file_and_a_wrong_total_are_named(converted: Convert) -> None:
    out = converted("w8a8", "sglang")
    save_file({"x": torch.ones(1)}, out / "stray.safetensors")
    edit(out / "model.safetensors.index.json", lambda index: index["metadata"].pop("total_size"))
    text = "\n".join(faults(out))
    assert "stray.safetensors: it is there" in text
    assert "metadata.total_size: None" in text


def test_a_changed_byte_is_found_by_its_digest(converted: Convert) -> None:
    out = converted("w8a8", "ascend")
    path = out / "quant_model_weights-00002-of-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert faults(out) == []
    (found,) = faults(out, digests=True)
    assert found.startswith(f"{path.name}: sha256:")


def test_formats_are_told_apart_and_others_refused(converted: Convert, tmp_path: Path) -> None:
    out = converted("w8a8", "ascend", "cambricon", "compressed-tensors", "sglang")
    for form in ("ascend", "cambricon", "compressed-tensors", "sglang"):
        assert detect(out / form) == form
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    with pytest.raises(InvalidModelError, match="awq"):
        detect(tmp_path)


@pytest.mark.parametrize(
    "gone, named",
    [
        (f"{EXPERT}.up_proj.", f"{EXPERT}.up_proj.weight"),
        (f"{EXPERT}.", f"{EXPERT}.down_proj.weight"),
        ("model.layers.1.", "model.layers.1"),
        (f"{EXPERT}.up_proj.weight!", f"{EXPERT}.up_proj.weight"),
    ],
)
def test_what_config_json_counts_is_all_there(gone: str, named: str, converted: Convert) -> None:
    """Index and description know nothing of what is missing, as in a source that lacked it."""
    folder = converted("w8a8", "ascend")

    def remove(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if name == gone.removesuffix("!") if gone.endswith("!") else name.startswith(gone):
                del tensors[name]

    def forget(types: dict[str, Any]) -> None:
        for name in list(types):
            if name == gone.removesuffix("!") if gone.endswith("!") else name.startswith(gone):
                del types[name]

    retensor(folder, remove, "quant_model_weights")
    edit(folder / "quant_model_description.json", forget)
    edit(folder / "config.json", lambda config: config.update(n_routed_experts=2))
    assert named in [fault.where for fault in validate(folder)]


def test_a_tensor_of_another_size_is_bad_input(converted: Convert, source_folder: Path) -> None:
    folder = converted("w8a8", "ascend")
    name = f"{ATTENTION}.o_proj.weight"

    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name][:-1]

    retensor(folder, shorten, "quant_model_weights")
    with pytest.raises(InvalidModelError, match=f"(?s)another size.*{name}"):
        compare(Source(source_folder), folder)


def test_a_config_without_quantization_may_say_null(converted: Convert) -> None:
    folder = converted("bf16", "cambricon")
    edit(folder / "config.json", lambda config: config.update(quantization_config=None))
    assert validate(folder) == []
