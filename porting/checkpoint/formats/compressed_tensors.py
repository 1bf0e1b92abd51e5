"""compressed-tensors, as vLLM, SGLang and vllm-ascend read it.

Source: vllm-project/compressed-tensors: src/compressed_tensors/quantization/, compressors/.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from porting.checkpoint.codecs import BlockSpec, MxSpec, Spec, word_columns
from porting.checkpoint.formats.format import Format, Result, config_of
from porting.checkpoint.made import Made
from porting.checkpoint.source import Source, SourceTensor
from porting.checkpoint.treatment import Treatment, without_ragged
from porting.quantization.schemes import Activation

_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_BLOCK_TOKEN = {
    "num_bits": 8, "type": "float", "symmetric": True, "strategy": "group", "group_size": 128, "dynamic": True,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Group:
    """Layers that are quantized alike."""

    spec: Spec
    activation: Activation

    @property
    def format(self) -> str:
        if isinstance(self.spec, BlockSpec):
            return "float-quantized"
        if isinstance(self.spec, MxSpec):
            return "mxfp8-quantized" if self.spec.bits == 8 else "mxfp4-pack-quantized"
        return "pack-quantized" if self.activation == "float" else "int-quantized"


class CompressedTensors(Format):
    """int-quantized for integer activations, pack-quantized for float ones, float-quantized for blocks of float8."""

    name: ClassVar[str] = "compressed-tensors"
    runtime: ClassVar[str] = "vllm"
    schemes: ClassVar[tuple[str, ...]] = ("bf16", "w8a8", "w8a16", "w4a8", "w4a16-g128", "fp8-block", "mxfp8", "mxfp4")

    def adjusted(self, treatments: dict[str, Treatment], source: Source, scheme: str) -> dict[str, Treatment]:
        """Matrices whose columns blocks do not divide stay in float: the format has no cut-off columns."""
        return without_ragged(treatments, source, "vllm-project/compressed-tensors: strategies block and group")

    def quantized(self, tensor: SourceTensor, treatment: Treatment) -> tuple[Made, ...]:
        """weight or weight_packed, weight_scale, and weight_shape where packing hides it."""
        rows, columns = tensor.shape
        spec, name = treatment.spec, tensor.name
        if isinstance(spec, BlockSpec):
            blocks = (-(-rows // spec.block[0]), columns // spec.block[1])
            return (
                Made(name, "F8_E4M3", (rows, columns), "stored" if treatment.verbatim else "codes"),
                Made(f"{name}_scale", "F32", blocks, "stored_scale" if treatment.verbatim else "scale"),
            )
        if isinstance(spec, MxSpec):
            exponents = Made(f"{name}_scale", "U8", (rows, columns // spec.group), "scale")
            if spec.bits == 8:
                return (Made(name, "F8_E4M3", (rows, columns), "codes"), exponents)
            return (Made(f"{name}_packed", "U8", (rows, columns // 2), "codes", "column_pairs"), exponents)
        assert spec is not None
        scale = Made(f"{name}_scale", "F32", (rows, 1 if spec.group is None else columns // spec.group), "scale")
        if treatment.activation != "float":
            return (Made(name, "I8", (rows, columns), "codes"), scale)
        words = Made(f"{name}_packed", "I32", (rows, word_columns(columns, spec.bits)), "codes", "words")
        return (words, scale, Made(f"{name}_shape", "I64", (2,), "shape"))

    def documents(self, result: Result) -> dict[str, Any]:
        """config.json with groups, the largest first under ``Linear`` and the others by name, and the ignored."""
        groups: dict[_Group, list[str]] = {}
        ignored = [] if "lm_head.weight" in result.source.tensors else ["lm_head"]
        for name, treatment in result.treatments.items():
            module = name.removesuffix(".weight")
            if treatment.spec is not None:
                groups.setdefault(_Group(treatment.spec, treatment.activation), []).append(module)
            elif treatment.matrix and name.endswith(".weight"):
                ignored.append(module)
        if not groups:
            return {"config.json": config_of(result, None)}
        ordered = sorted(groups, key=lambda group: len(groups[group]))
        formats = {group.format for group in groups}
        config_groups = {}
        for number, group in enumerate(ordered):
            targets = ["Linear"] if group is ordered[-1] else _patterns(groups[group], groups[ordered[-1]])
            config_groups[f"group_{number}"] = _scheme(group, targets)
        quantization = {
            "quant_method": "compressed-tensors",
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "config_groups": config_groups,
            "ignore": ignored,
            "kv_cache_scheme": None,
        }
        return {"config.json": config_of(result, quantization)}


def _scheme(group: _Group, targets: list[str]) -> dict[str, Any]:
    spec = group.spec
    if isinstance(spec, BlockSpec):
        weights: dict[str, Any] = {
            "num_bits": 8, "type": "float", "symmetric": True, "strategy": "block",
            "block_structure": list(spec.block), "dynamic": False,
        }  # fmt: skip
        activations: dict[str, Any] | None = _BLOCK_TOKEN
    elif isinstance(spec, MxSpec):
        weights = {
            "num_bits": spec.bits, "type": "float", "symmetric": True, "strategy": "group", "group_size": spec.group,
            "dynamic": False, "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8",
        }  # fmt: skip
        activations = {**weights, "dynamic": True}
    else:
        weights = {"num_bits": spec.bits, "type": "int", "symmetric": True, "dynamic": False}
        weights |= {"strategy": "channel"} if spec.group is None else {"strategy": "group", "group_size": spec.group}
        activations = None if group.activation == "float" else _TOKEN
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": activations,
        "output_activations": None,
        "format": group.format,
    }


def _patterns(modules: Iterable[str], others: Iterable[str]) -> list[str]:
    """Anchored patterns of modules, numbers left open; names themselves where such a pattern hits other modules."""
    taken = {_pattern(other) for other in others}
    found = {_pattern(module) if _pattern(module) not in taken else module for module in modules}
    return sorted(found)


def _pattern(module: str) -> str:
    open_numbers = re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(module).replace(r"\_", "_"))
    return f"re:{open_numbers}$"
