"""What a format is: names and types of the tensors of a result, and the documents beside them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from porting.checkpoint.made import Made
from porting.checkpoint.source import Source, SourceTensor
from porting.checkpoint.treatment import BF16, Treatment

STORED_AS = {"bfloat16": "BF16", "float16": "F16"}


@dataclasses.dataclass(frozen=True)
class Result:
    """What the documents of a format speak of. treatments: by source tensor. made: tensors of each source tensor."""

    source: Source
    scheme: str
    treatments: Mapping[str, Treatment]
    made: Mapping[str, Sequence[Made]]


class Format(ABC):
    """name: on the command line. runtime: which lines of keep-tables and schemes count. stem: of its weight files."""

    name: ClassVar[str]
    runtime: ClassVar[str]
    stem: ClassVar[str] = "model"
    schemes: ClassVar[tuple[str, ...]]

    def adjusted(self, treatments: dict[str, Treatment], source: Source, scheme: str) -> dict[str, Treatment]:
        """What the format makes of the decisions. UsageError where it cannot hold a weight that was decided upon."""
        return treatments

    def tensors(self, tensor: SourceTensor, treatment: Treatment, dtype: str) -> tuple[Made, ...]:
        """What a source tensor becomes, its codes first. dtype: of floats that cannot stay as they are stored."""
        if treatment.spec is not None:
            return self.quantized(tensor, treatment)
        name, shape = tensor.name, tensor.shape
        if treatment.widen:
            return (Made(name, "BF16", shape, "stored" if tensor.entry.dtype == "BF16" else "float"),)
        if tensor.scale is not None:
            return (Made(name, dtype, shape, "float"),)
        return (Made(name, tensor.entry.dtype, shape, "stored"),)

    @abstractmethod
    def quantized(self, tensor: SourceTensor, treatment: Treatment) -> tuple[Made, ...]:
        """The tensors of a quantized weight [n, k]."""

    @abstractmethod
    def documents(self, result: Result) -> dict[str, Any]:
        """JSON documents by file name; the weights' index is not among them."""


def float_dtype(source: Source) -> str:
    """The model's floating type, as safetensors names it."""
    return STORED_AS[str(source.dtype).removeprefix("torch.")]


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as of a model in float, nested text models included."""
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}
    if isinstance(plain.get("text_config"), dict):
        plain["text_config"] = without_quantization(plain["text_config"])
    return plain


def config_of(result: Result, quantization: Mapping[str, Any] | None) -> dict[str, Any]:
    """config.json of a result: the source's, with another quantization_config or none."""
    plain = without_quantization(result.source.config)
    if result.scheme == BF16:
        for key in ("torch_dtype", "dtype"):
            if key in plain:
                plain[key] = "bfloat16"
    return plain if quantization is None else {**plain, "quantization_config": dict(quantization)}
