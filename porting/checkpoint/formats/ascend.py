"""AscendV1, msModelSlim's format: quant_model_description.json and its weights.

Read by vllm-ascend, SGLang's NPU backend, xLLM's NPU backend and MindIE.
Sources: Ascend/msmodelslim:msmodelslim/core/quant_service/modelslim_v1/save/ascendv1.py, docs/zh/user_guide/
quantization_formats/ascendv1.md; vllm-project/vllm-ascend:vllm_ascend/quantization/.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from porting.checkpoint.codecs import MxSpec
from porting.checkpoint.formats.format import Format, Result, config_of
from porting.checkpoint.made import Made
from porting.checkpoint.source import Source, SourceTensor
from porting.checkpoint.treatment import Treatment, is_routed_expert, require, without_ragged
from porting.quantization.weight_spec import WeightSpec

DESCRIPTION = "quant_model_description.json"
FLOAT = "FLOAT"
SLICES = 16
"""Sums a row in the scale_bias of a matrix whose columns tensor parallelism divides: the runtime takes 16 / tp."""
_SLICED = re.compile(r"(.*\.)?(down_proj|o_proj|w2)")


_MX = {8: "W8A8_MXFP8", 4: "W4A4_MXFP4"}
_PRIORITY = ("W4A4_MXFP4", "W8A8_MXFP8", "W4A8_DYNAMIC", "W8A8_DYNAMIC", "W8A16")


class Ascend(Format):
    """FLOAT, W8A8_DYNAMIC, W8A16, W4A8_DYNAMIC for routed experts, W8A8_MXFP8 and W4A4_MXFP4."""

    name: ClassVar[str] = "ascend"
    runtime: ClassVar[str] = "torch_npu"
    stem: ClassVar[str] = "quant_model_weights"
    schemes: ClassVar[tuple[str, ...]] = ("bf16", "w8a8", "w8a16", "w4a8", "mxfp8", "mxfp4")

    def adjusted(self, treatments: dict[str, Treatment], source: Source, scheme: str) -> dict[str, Treatment]:
        """UsageError for a map that asks for what the runtime does not load, and for matrices that do not go in pairs.

        Source: vllm-project/vllm-ascend:vllm_ascend/quantization/methods/w4a8.py (experts only, no groups).
        """
        for name, treatment in treatments.items():
            spec, shape = treatment.spec, source.tensors[name].shape
            if not isinstance(spec, WeightSpec) or spec.bits == 8:
                continue
            fits = is_routed_expert(name) and spec.group is None and treatment.activation == "int8_token"
            require(fits, "int4 is for routed experts, a scale a channel", required="scheme w4a8", name=name,
                    shape=shape, fix="another scheme in the map")  # fmt: skip
            slices = bias_slices(name)
            require(shape[0] % 2 == 0 and shape[1] % slices == 0, "the matrix does not go into pairs of rows",
                    required=f"an even number of rows, and columns that are a multiple of {slices}",
                    name=name, shape=shape, fix="scheme w8a8 for all experts")  # fmt: skip
        return without_ragged(treatments, source, "msModelSlim: group_size 32")

    def quantized(self, tensor: SourceTensor, treatment: Treatment) -> tuple[Made, ...]:
        """weight, weight_scale, weight_offset; of int4, two rows a byte and scale_bias."""
        spec = treatment.spec
        rows, columns = tensor.shape
        name = tensor.name
        if isinstance(spec, MxSpec):
            exponents = Made(f"{name}_scale", "U8", (rows, columns // spec.group), "scale")
            if spec.bits == 8:
                return (Made(name, "F8_E4M3", (rows, columns), "codes"), exponents)
            return (Made(name, "U8", (rows, columns // 2), "codes", "column_pairs"), exponents)
        assert isinstance(spec, WeightSpec)
        per_row = (
            Made(f"{name}_scale", "F32", (rows, 1), "scale"),
            Made(f"{name}_offset", "F32", (rows, 1), "zeros"),
        )
        if spec.bits == 8:
            return (Made(name, "I8", (rows, columns), "codes"), *per_row)
        bias = Made(f"{name.removesuffix('.weight')}.scale_bias", "F32", (rows, bias_slices(name)), "bias")
        return (Made(name, "I8", (rows // 2, columns), "codes", "row_pairs"), *per_row, bias)

    def documents(self, result: Result) -> dict[str, Any]:
        """The description names every tensor; config.json has no quantization_config, which would win over it."""
        types = {made.name: type_of(result.treatments[name]) for name, group in result.made.items() for made in group}
        for name in unstored(result.source):
            types.setdefault(name, FLOAT)
        found = set(types.values())
        model = next((each for each in _PRIORITY if each in found), FLOAT)
        group = MxSpec(8).group if model in _MX.values() else 0
        head = {"version": "1.0.0", "model_quant_type": model, "group_size": group, "metadata": {}, "optional": {}}
        return {DESCRIPTION: {**head, **types}, "config.json": config_of(result, None)}


def bias_slices(name: str) -> int:
    """Sums a row in the scale_bias of a weight. Source: msModelSlim, W4A8_DYNAMIC."""
    return SLICES if _SLICED.fullmatch(name.removesuffix(".weight")) else 1


def type_of(treatment: Treatment) -> str:
    """The word of the description."""
    if isinstance(treatment.spec, MxSpec):
        return _MX[treatment.spec.bits]
    if not isinstance(treatment.spec, WeightSpec):
        return FLOAT
    if treatment.activation == "float":
        return "W8A16"
    return "W8A8_DYNAMIC" if treatment.spec.bits == 8 else "W4A8_DYNAMIC"


def unstored(source: Source) -> list[str]:
    """Weights that the runtime looks up in the description although the checkpoint shares them and does not store them.

    Source: vllm-project/vllm-ascend issues 3534, 5794: a tied head; embeddings and head of the layer for two tokens.
    """
    names = [] if "lm_head.weight" in source.tensors else ["lm_head.weight"]
    first, count = source.config.get("num_hidden_layers"), source.config.get("num_nextn_predict_layers")
    if isinstance(first, int) and isinstance(count, int):
        for layer in range(first, first + count):
            if any(name.startswith(f"model.layers.{layer}.") for name in source.tensors):
                names += [f"model.layers.{layer}.{part}.weight" for part in ("embed_tokens", "shared_head.head")]
    return [name for name in names if name not in source.tensors]
