"""What vllm-ascend, SGLang on NPU and xLLM on NPU ask of an AscendV1 folder.

Sources: vllm-project/vllm-ascend:vllm_ascend/quantization/modelslim_config.py and methods/; Ascend/msmodelslim:docs/zh/
user_guide/quantization_formats/ascendv1.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from porting.checkpoint.contracts.folder import Fault, Folder, experts_only, is_matrix, uniform
from porting.weights.index import read_json

DESCRIPTION = "quant_model_description.json"
STEM = "quant_model_weights"
_MX = {"W8A8_MXFP8": ("F8_E4M3", 1), "W4A4_MXFP4": ("U8", 2)}
_KINDS = ("FLOAT", "W8A8_DYNAMIC", "W8A16", "W4A8_DYNAMIC", *_MX)
_SLICED = ("down_proj", "o_proj", "w2")


def check(path: Path) -> Iterator[Fault]:
    """Everything that is wrong, entry by entry."""
    folder = Folder(path, STEM)
    description = read_json(path / DESCRIPTION)
    if not isinstance(description, dict):
        yield Fault(DESCRIPTION, "a JSON object", type(description).__name__)
        return
    yield from _documents(folder, description)
    for name in folder.entries:
        if name not in description:
            yield Fault(f"{DESCRIPTION}, {name}", f"one of {', '.join(_KINDS)}", "no entry")
    kinds = {name: kind for name, kind in description.items() if "." in name}
    for name, kind in kinds.items():
        if kind not in _KINDS:
            yield Fault(f"{DESCRIPTION}, {name}", f"one of {', '.join(_KINDS)}", str(kind))
        elif name not in folder.entries and not _is_shared(folder, name):
            yield Fault(f"{DESCRIPTION}, {name}", "a tensor of the weight files", "no such tensor")
    modules = {
        name.removesuffix(".weight"): str(kind)
        for name, kind in kinds.items()
        if name in folder.entries and is_matrix(folder.entries[name])
    }
    yield from uniform(modules)
    for module, kind in modules.items():
        yield from _module(folder, description, module, kind)


def _documents(folder: Folder, description: Mapping[str, Any]) -> Iterator[Fault]:
    for holder, config in (
        ("config.json", folder.config),
        ("config.json, text_config", folder.config.get("text_config")),
    ):
        if isinstance(config, dict) and "quantization_config" in config:
            yield Fault(holder, "no quantization_config beside a description", "quantization_config")
    group = 32 if description.get("model_quant_type") in _MX else 0
    if description.get("group_size", 0) != group:
        yield Fault(f"{DESCRIPTION}, group_size", f"{group}: others are rejected", str(description["group_size"]))
    if not isinstance(description.get("model_quant_type"), str):
        yield Fault(f"{DESCRIPTION}, model_quant_type", "a type", str(description.get("model_quant_type")))


def _is_shared(folder: Folder, name: str) -> bool:
    """Looked up in the description although they live in another tensor: a tied head, the layer for two tokens."""
    return name == "lm_head.weight" or name.endswith((".embed_tokens.weight", ".shared_head.head.weight"))


def _module(folder: Folder, description: Mapping[str, Any], module: str, kind: str) -> Iterator[Fault]:
    weight = f"{module}.weight"
    entry = folder.entries[weight]
    if kind == "FLOAT":
        if entry.dtype not in ("BF16", "F16", "F32"):
            yield Fault(weight, "a float tensor, as the description says", entry.dtype)
        return
    reason = folder.kept_always(module, "torch_npu")
    if reason is not None:
        yield Fault(weight, f"FLOAT ({reason})", kind)
    if kind in _MX:
        dtype, pairs = _MX[kind]
        yield from folder.expect(weight, dtype, entry.shape)
        yield from folder.expect(f"{weight}_scale", "U8", (entry.shape[0], entry.shape[1] * pairs // 32))
        return
    int4 = kind == "W4A8_DYNAMIC"
    if int4 and not experts_only(module):
        yield Fault(weight, "W4A8_DYNAMIC on routed experts only", kind)
    rows, columns = entry.shape[0] * (2 if int4 else 1), entry.shape[1]
    yield from folder.expect(weight, "I8", entry.shape)
    wanted = [(f"{weight}_scale", (rows, 1)), (f"{weight}_offset", (rows, 1))]
    if int4:
        slices = 16 if module.rpartition(".")[2] in _SLICED else 1
        wanted.append((f"{module}.scale_bias", (rows, slices)))
        if columns % slices:
            yield Fault(weight, f"columns that are a multiple of {slices}", str(columns))
    for name, shape in wanted:
        yield from folder.expect(name, "F32", shape)
        if description.get(name, kind) != kind:
            yield Fault(f"{DESCRIPTION}, {name}", f"{kind} as {weight}", str(description[name]))
    yield from folder.expect_positive(f"{weight}_scale")
