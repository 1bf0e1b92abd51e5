"""What vllm-mlu and xLLM load on Cambricon MLU: SmoothQuant with all factors one, or weights alone.

int4 weights alone are GPTQ's, which vllm-mlu loads and xLLM does not (``gptq``).

Sources: Cambricon/vllm-mlu:vllm_mlu/model_executor/layers/quantization/; jd-opensource/xllm:xllm/core/layers/
{common,mlu}/ and xllm/core/framework/hf_model_loader.cpp. The order of the two int4 of a byte (even column low) is that
of the GPTQ path; for SmoothQuant it is not known from public code. Nor are the type of the scales of weights alone
(float32 here) and the word by which that method is registered (``weightonly`` here).
"""

from __future__ import annotations

from typing import Any, ClassVar

from porting.checkpoint.formats import gptq
from porting.checkpoint.formats.format import Format, Result, config_of
from porting.checkpoint.made import Made
from porting.checkpoint.source import Source, SourceTensor
from porting.checkpoint.treatment import Treatment, is_routed_expert, require
from porting.quantization.keep_tables import kept
from porting.quantization.weight_spec import WeightSpec

_TOKENS: dict[str, Any] = {
    "quant_method": "smoothquant",
    "quant_mode": "SmoothQuant",
    "input_quant_method": "per_token",
    "bits": 8,
    "weight_precision": "int8",
    "activation_precision": "int8",
}
_EXPERTS: dict[str, Any] = {
    "group_size": 128,
    "only_expert_per_group": True,
    "expert_weight_precision": "int4",
    "experts_weight_bits": 4,
    "expert_activation_precision": "int8",
}
_WEIGHTS: dict[str, Any] = {"quant_method": "weightonly", "quant_mode": "WeightOnly", "bits": 8}
_INT4 = "w4a16-g128"


class Cambricon(Format):
    """qweight, per_channel_scale and smooth; one config for both runtimes.

    No group_size without groups: vllm-mlu takes 1 for none, xLLM any number above 0 for groups.
    """

    name: ClassVar[str] = "cambricon"
    runtime: ClassVar[str] = "torch_mlu_ops"
    schemes: ClassVar[tuple[str, ...]] = ("bf16", "w8a8", "w8a16", "w4a8", "w4a16-g128")

    def adjusted(self, treatments: dict[str, Treatment], source: Source, scheme: str) -> dict[str, Treatment]:
        """UsageError for what the one configuration of all layers cannot say."""
        if scheme == _INT4:
            gptq.require_loadable(treatments, source, self.runtime)
            return treatments
        for name, treatment in treatments.items():
            spec, shape, expert = treatment.spec, source.tensors[name].shape, is_routed_expert(name)
            if scheme != "bf16" and spec is None and treatment.matrix:
                require(kept(name.removesuffix(".weight"), source.family, self.runtime) is not None,
                        "a linear layer that would stay in float: the loaders have no list of such ones",
                        required="every layer quantized that the keep-table does not name", name=name, shape=shape,
                        fix="a scheme map without a line for it, or another format")  # fmt: skip
            if not isinstance(spec, WeightSpec):
                continue
            if scheme == "w8a16":
                require(not expert, "weights alone have no matrix of experts", required="no routed experts", name=name,
                        shape=shape, fix="--scheme w8a8 or w4a8")  # fmt: skip
            wanted = WeightSpec(4, 128, "mse") if scheme == "w4a8" and expert else WeightSpec(8)
            activation = "float" if scheme == "w8a16" else "int8_token"
            require(spec == wanted and treatment.activation == activation,
                    "one configuration is for all layers of a kind",
                    required=f"{wanted.bits} bits" + (f", {wanted.group} divides the columns" if wanted.group else ""),
                    name=name, shape=shape, fix="--scheme w8a8")  # fmt: skip
        return treatments

    def tensors(self, tensor: SourceTensor, treatment: Treatment, dtype: str) -> tuple[Made, ...]:
        """As every format; int4 weights alone have scales in the model's dtype."""
        if treatment.scheme == _INT4:
            return gptq.tensors(tensor, dtype)
        return super().tensors(tensor, treatment, dtype)

    def quantized(self, tensor: SourceTensor, treatment: Treatment) -> tuple[Made, ...]:
        """qweight, per_channel_scale, smooth; of weights alone, qweight and scales."""
        spec = treatment.spec
        assert isinstance(spec, WeightSpec)
        rows, columns = tensor.shape
        module = tensor.name.removesuffix(".weight")
        if treatment.activation == "float":
            codes = Made(f"{module}.qweight", "I8", (rows, columns), "codes")
            return (codes, Made(f"{module}.scales", "F32", (rows,), "scale"))
        smooth = Made(f"{module}.smooth", "F32", (columns,), "ones")
        scale = Made(f"{module}.per_channel_scale", "F32", spec.scale_shape((rows, columns)), "scale")
        if spec.bits == 8:
            return (Made(f"{module}.qweight", "I8", (rows, columns), "codes"), scale, smooth)
        return (Made(f"{module}.qweight", "I8", (rows, columns // 2), "codes", "column_pairs"), scale, smooth)

    def documents(self, result: Result) -> dict[str, Any]:
        """config.json for both runtimes, and the same keys in quantize_config.json, which vllm-mlu prefers."""
        specs = {treatment.spec for treatment in result.treatments.values() if treatment.spec is not None}
        if not specs:
            return {"config.json": config_of(result, None)}
        if result.scheme == _INT4:
            quantization = dict(gptq.QUANTIZATION)
        elif result.scheme == "w8a16":
            quantization = _WEIGHTS
        else:
            groups = any(isinstance(spec, WeightSpec) and spec.group for spec in specs)
            quantization = _TOKENS | (_EXPERTS if groups else {})
        return {"config.json": config_of(result, quantization), "quantize_config.json": quantization}
