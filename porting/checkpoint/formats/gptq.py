"""GPTQ's layout of int4 in groups, as vllm-mlu loads it.

Codes lie transposed, eight of a row's consecutive columns in an int32, the first in the lowest bits; so do the scales.
The loader makes the method of every linear layer a quantized one, and of nothing else: it has no list of layers that
stay in float, no method for routed experts, and leaves tables and the head as they are. It asks that groups divide the
columns and that eight divide the rows, also after tensor parallelism has split them.

Source: Cambricon/vllm-mlu:vllm_mlu/model_executor/layers/quantization/gptq_mlu.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from porting.checkpoint.made import Made
from porting.checkpoint.source import Source, SourceTensor
from porting.checkpoint.treatment import Treatment, is_routed_expert
from porting.errors import UsageError
from porting.quantization.keep_tables import kept
from porting.quantization.weight_spec import WeightSpec

SPEC = WeightSpec(4, 128, "mse")
IN_A_WORD = 8
QUANTIZATION: Mapping[str, Any] = {
    "quant_method": "gptq",
    "bits": SPEC.bits,
    "group_size": SPEC.group,
    "desc_act": False,
    "sym": True,
    "lm_head": False,
}
_SOURCE = "Cambricon/vllm-mlu:vllm_mlu/model_executor/layers/quantization/gptq_mlu.py"
_FIX = "--scheme w8a8; where a scheme map says so, no line for it"


def is_linear(module: str, family: str, runtime: str) -> bool:
    """Whether a module with a matrix is a linear layer to the loader: all are but tables and the head."""
    row = kept(module, family, runtime)
    return row is None or row.linear


def require_loadable(treatments: Mapping[str, Treatment], source: Source, runtime: str) -> None:
    """UsageError unless every linear layer is quantized, all alike, and of a size that the loader takes."""
    experts = next(filter(is_routed_expert, treatments), None)
    if experts is not None:
        raise _refusal("no method of the loader is for routed experts", required="no routed experts",
                       met=list(source.tensors[experts].shape), name=experts, fix="--scheme w4a8")  # fmt: skip
    for name, treatment in treatments.items():
        shape = source.tensors[name].shape
        if treatment.spec is None:
            if treatment.matrix and is_linear(name.removesuffix(".weight"), source.family, runtime):
                raise _refusal(
                    "a linear layer that would stay in float: the loader has no list of such ones",
                    required="every linear layer in int4",
                    met=f"{treatment.reason} [{treatment.source}]",
                    name=name,
                    fix=_FIX,
                )
            continue
        rows, columns = shape
        if treatment.spec != SPEC or treatment.activation != "float" or not columns or not rows or rows % IN_A_WORD:
            raise _refusal(
                "a linear layer that cannot be int4 like all others",
                required=f"int4, columns that {SPEC.group} divides and rows that {IN_A_WORD} divides",
                met=f"{list(shape)}, {treatment.scheme} ({treatment.reason})",
                name=name,
                fix=_FIX,
            )


def tensors(tensor: SourceTensor, dtype: str) -> tuple[Made, ...]:
    """qweight, scales, qzeros and g_idx of a weight [n, k]. dtype: the model's, in which scales are stored."""
    (rows, columns), group = tensor.shape, SPEC.group
    assert group is not None
    module = tensor.name.removesuffix(".weight")
    return (
        Made(f"{module}.qweight", "I32", (columns // IN_A_WORD, rows), "codes", "words", transposed=True),
        Made(f"{module}.scales", dtype, (columns // group, rows), "scale", transposed=True),
        Made(f"{module}.qzeros", "I32", (columns // group, rows // IN_A_WORD), "zero_points"),
        Made(f"{module}.g_idx", "I32", (columns,), "group_index"),
    )


def _refusal(message: str, *, required: str, met: object, name: str, fix: str) -> UsageError:
    return UsageError(message, required=f"{required} [{_SOURCE}]", met=met, where=name, fix=fix)
