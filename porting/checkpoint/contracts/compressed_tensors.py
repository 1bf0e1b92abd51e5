"""What loaders of compressed-tensors ask: each linear layer ignored, or with the tensors of its group.

Source: vllm-project/compressed-tensors: src/compressed_tensors/quantization/quant_config.py, utils/match.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from porting.checkpoint.contracts.folder import Fault, Folder, is_matrix, uniform

_WEIGHTS = (".weight", ".weight_packed")
_MX = {"mxfp8-quantized": ("", "F8_E4M3", 1), "mxfp4-pack-quantized": ("_packed", "U8", 2)}


def check(path: Path) -> Iterator[Fault]:
    """Everything that is wrong, entry by entry."""
    folder = Folder(path)
    config = folder.quantization
    groups = config.get("config_groups", {})
    if config and not (isinstance(groups, dict) and all(_is_group(group) for group in groups.values()) and groups):
        yield Fault(
            "config.json, quantization_config.config_groups", "groups with targets, weights and format", "others"
        )
        return
    for key, value in (("quant_method", "compressed-tensors"), ("quantization_status", "compressed")):
        if config and config.get(key) != value:
            yield Fault(f"config.json, quantization_config.{key}", value, str(config.get(key)))
    ignored = config.get("ignore", [])
    kinds: dict[str, str] = {}
    for module in _modules(folder):
        entry = folder.entries.get(f"{module}.weight")
        is_float = entry is not None and entry.dtype in ("BF16", "F16", "F32")
        if is_float and (not config or matches(module, ignored) or _is_no_linear(module)):
            kinds[module] = "float"
            continue
        if matches(module, ignored) or not config:
            yield Fault(module, "a float weight: the module is ignored", "quantized")
            continue
        group = group_of(module, groups)
        if group is None:
            yield Fault(module, "a group that targets it, or a place among the ignored", "neither")
        elif is_float:
            yield Fault(f"{module}.weight", f"codes of format {group['format']}, or a place among the ignored", "float")
        else:
            kinds[module] = f"{group['format']} {group['weights'].get('num_bits')} bits"
            yield from _tensors(folder, module, group)
    yield from uniform(kinds)


def group_of(module: str, groups: dict[str, Any]) -> dict[str, Any] | None:
    """The group of a linear layer: by name or pattern before the class ``Linear``."""
    for group in groups.values():
        if matches(module, [target for target in group["targets"] if target != "Linear"]):
            return dict(group)
    return next((dict(group) for group in groups.values() if "Linear" in group["targets"]), None)


def matches(module: str, targets: Sequence[str]) -> bool:
    """Exact names; ``re:`` patterns match from the start."""
    return any(
        re.match(target[3:], module) is not None if target.startswith("re:") else target == module for target in targets
    )


def _is_group(group: Any) -> bool:
    return (
        isinstance(group, dict)
        and isinstance(group.get("targets"), list)
        and isinstance(group.get("weights"), dict)
        and isinstance(group.get("format"), str)
    )


def _modules(folder: Folder) -> Iterator[str]:
    for name, entry in folder.entries.items():
        suffix = next((suffix for suffix in _WEIGHTS if name.endswith(suffix)), None)
        if suffix is not None and (is_matrix(entry) or suffix != ".weight"):
            yield name.removesuffix(suffix)


def _is_no_linear(module: str) -> bool:
    return "embed" in module.rpartition(".")[2]


def _tensors(folder: Folder, module: str, group: dict[str, Any]) -> Iterator[Fault]:
    weights, name = group["weights"], f"{module}.weight"
    packed = group["format"] == "pack-quantized"
    if group["format"] in _MX:
        suffix, dtype, pairs = _MX[group["format"]]
        stored = folder.entries.get(f"{name}{suffix}")
        if stored is None:
            yield Fault(f"{name}{suffix}", f"the weight of format {group['format']}", "missing")
            return
        yield from folder.expect(stored.name, dtype, stored.shape)
        yield from folder.expect(f"{name}_scale", "U8", (stored.shape[0], stored.shape[1] * pairs // 32))
        return
    entry = folder.entries.get(f"{name}_packed" if packed else name)
    if entry is None:
        yield Fault(f"{name}_packed" if packed else name, f"the weight of format {group['format']}", "missing")
        return
    rows, columns = entry.shape
    if packed:
        shape = folder.entries.get(f"{name}_shape")
        yield from folder.expect(f"{name}_shape", "I64", (2,))
        if shape is None or shape.shape != (2,):
            return
        rows, columns = (int(n) for n in folder.store.tensor(f"{name}_shape"))
        yield from folder.expect(f"{name}_packed", "I32", (rows, -(-columns * int(weights["num_bits"]) // 32)))
    else:
        yield from folder.expect(name, "F8_E4M3" if group["format"] == "float-quantized" else "I8", (rows, columns))
    wanted = (rows, 1)
    if weights.get("strategy") == "group":
        wanted = (rows, columns // int(weights["group_size"]))
    elif weights.get("strategy") == "block":
        height, width = weights["block_structure"]
        wanted = (-(-rows // height), columns // width)
        if columns % width:
            yield Fault(name, f"columns that are a multiple of {width}", str(columns))
    yield from folder.expect(f"{name}_scale", "F32", wanted)
    yield from folder.expect_positive(f"{name}_scale")
