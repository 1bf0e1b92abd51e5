"""What vllm-mlu and xLLM on MLU ask of a SmoothQuant folder; of GPTQ's, see ``gptq``.

Sources: Cambricon/vllm-mlu:vllm_mlu/model_executor/layers/quantization/; jd-opensource/xllm:xllm/core/framework/
hf_model_loader.cpp, xllm/core/layers/mlu/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from porting.checkpoint.contracts import gptq
from porting.checkpoint.contracts.folder import Fault, Folder, experts_only, qweights_alone
from porting.quantization.keep_tables import kept

_RUNTIME = "torch_mlu_ops"
_SMOOTH_KEYS = {"quant_mode": "SmoothQuant", "input_quant_method": "per_token", "bits": 8}
_EXPERT_KEYS = {"only_expert_per_group": True, "expert_weight_precision": "int4", "experts_weight_bits": 4}


def check(path: Path) -> Iterator[Fault]:
    """Everything that is wrong, entry by entry."""
    folder = Folder(path)
    method = folder.quantization.get("quant_method")
    if method == gptq.METHOD:
        yield from gptq.check(folder, _RUNTIME)
        return
    modules = folder.qweights
    yield from _config(folder, bool(modules))
    yield from qweights_alone(
        folder,
        lambda module: bool(modules) and kept(module, folder.family, _RUNTIME) is None,
        "every linear layer that the runtime does not hold in float",
    )
    for module in modules:
        yield from _module(folder, module, method == "smoothquant")


def _config(folder: Folder, quantized: bool) -> Iterator[Fault]:
    found = folder.quantization
    if not quantized:
        if found:
            yield Fault(
                "config.json, quantization_config", "none: no weight is quantized", str(found.get("quant_method"))
            )
        return
    wanted: dict[str, object] = {"quant_mode": "WeightOnly", "bits": 8}
    if found.get("quant_method") == "smoothquant":
        wanted = {**_SMOOTH_KEYS, **(_EXPERT_KEYS if found.get("expert_weight_precision") == "int4" else {})}
        groups = found.get("expert_weight_precision") == "int4"
        if groups != ("group_size" in found):
            required = (
                "there with int4 experts" if groups else "absent without groups: xLLM takes any number for groups"
            )
            yield Fault("config.json, quantization_config.group_size", required, str(found.get("group_size")))
    elif found.get("quant_method") != "weightonly":
        yield Fault("config.json, quantization_config.quant_method", "smoothquant or weightonly",
                    str(found.get("quant_method")))  # fmt: skip
    for key, value in wanted.items():
        if found.get(key) != value:
            yield Fault(f"config.json, quantization_config.{key}", str(value), str(found.get(key)))


def _module(folder: Folder, module: str, smooth: bool) -> Iterator[Fault]:
    name = f"{module}.qweight"
    entry = folder.entries[name]
    reason = folder.kept_always(module, _RUNTIME)
    if reason is not None:
        yield Fault(name, f"a float weight ({reason})", "quantized")
    if len(entry.shape) != 2 or entry.dtype != "I8":
        yield Fault(name, "I8 of two axes", f"{entry.dtype} {list(entry.shape)}")
        return
    rows, columns = entry.shape
    if not smooth:
        yield from folder.expect(f"{module}.scales", "F32", (rows,))
        yield from folder.expect_positive(f"{module}.scales")
        return
    scale: tuple[int, ...] = (rows,)
    group = folder.quantization.get("group_size")
    if isinstance(group, int) and group > 0 and experts_only(module):
        columns *= 2
        scale = (rows, columns // group)
        if columns % group:
            yield Fault(name, f"columns that are a multiple of {group}", str(columns))
    yield from folder.expect(f"{module}.per_channel_scale", "F32", scale)
    yield from folder.expect(f"{module}.smooth", "F32", (columns,))
    yield from folder.expect_positive(f"{module}.per_channel_scale")
    yield from folder.expect_positive(f"{module}.smooth")
    parent, _, leaf = module.rpartition(".")
    gate, up = f"{parent}.gate_proj.smooth", f"{parent}.up_proj.smooth"
    if leaf == "gate_proj" and gate in folder.entries and up in folder.entries:
        one, other = folder.store.tensor(gate), folder.store.tensor(up)
        if one.shape != other.shape or not torch.equal(one, other):
            yield Fault(gate, f"equal to {up}: a layer has one", "other values")
