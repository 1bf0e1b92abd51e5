"""SGLang's own int8: a scale a channel (w8a8_int8), or a scale a block of 128 x 128 (blockwise_int8).

Sources: sgl-project/sglang:python/sglang/srt/layers/quantization/{w8a8_int8,blockwise_int8}.py. That the methods are
registered under these two words is read from there; how config.json spells the first is not verified.
"""

from __future__ import annotations

from typing import Any, ClassVar

from porting.checkpoint.codecs import BlockSpec
from porting.checkpoint.formats.format import Format, Result, config_of
from porting.checkpoint.made import Made
from porting.checkpoint.source import SourceTensor
from porting.checkpoint.treatment import Treatment


class SGLang(Format):
    """weight I8 with weight_scale [n, 1], or with weight_scale_inv of blocks."""

    name: ClassVar[str] = "sglang"
    runtime: ClassVar[str] = "sglang"
    schemes: ClassVar[tuple[str, ...]] = ("bf16", "w8a8", "int8-block")

    def quantized(self, tensor: SourceTensor, treatment: Treatment) -> tuple[Made, ...]:
        """Codes and scales."""
        rows, columns = tensor.shape
        codes = Made(tensor.name, "I8", (rows, columns), "codes")
        spec = treatment.spec
        if isinstance(spec, BlockSpec):
            blocks = (-(-rows // spec.block[0]), -(-columns // spec.block[1]))
            return (codes, Made(f"{tensor.name}_scale_inv", "F32", blocks, "scale"))
        return (codes, Made(f"{tensor.name}_scale", "F32", (rows, 1), "scale"))

    def documents(self, result: Result) -> dict[str, Any]:
        """config.json: the method, and the layers that stay in float."""
        quantized = [each for each in result.treatments.values() if each.spec is not None]
        if not quantized:
            return {"config.json": config_of(result, None)}
        ignored = [
            name.removesuffix(".weight")
            for name, treatment in result.treatments.items()
            if treatment.spec is None and treatment.matrix and name.endswith(".weight")
        ]
        quantization: dict[str, Any]
        if isinstance(quantized[0].spec, BlockSpec):
            quantization = {
                "quant_method": "blockwise_int8",
                "activation_scheme": "dynamic",
                "weight_block_size": list(quantized[0].spec.block),
                "ignored_layers": ignored,
            }
        else:
            quantization = {"quant_method": "w8a8_int8", "ignored_layers": ignored}
        return {"config.json": config_of(result, quantization)}
