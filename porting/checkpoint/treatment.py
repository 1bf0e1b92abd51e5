"""What becomes of each tensor of a checkpoint in one format, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from porting.checkpoint.codecs import BlockSpec, MxSpec, Spec
from porting.checkpoint.source import Source, SourceTensor
from porting.errors import UsageError
from porting.quantization.plan import Decision, plan_quantization
from porting.quantization.scheme_map import SchemeMap
from porting.quantization.schemes import NONE, Activation, schemes
from porting.quantization.weight_spec import WeightSpec

BF16 = "bf16"
_FLOATS: Mapping[str, BlockSpec | MxSpec] = {
    "fp8-block": BlockSpec("float8_e4m3fn"),
    "int8-block": BlockSpec("int8"),
    "mxfp8": MxSpec(8),
    "mxfp4": MxSpec(4),
}
_LIKE = "w8a8"
"""Schemes of blocks and of microscaling quantize what this scheme does."""

SCHEMES = (BF16, "w8a8", "w8a16", "w4a8", "w4a16-g128", *_FLOATS)


@dataclasses.dataclass(frozen=True)
class Treatment:
    """spec: how the tensor is quantized; None where it stays in float. scheme: the word that decided.

    matrix: whether it is the weight of a module with two axes, that is whether a runtime may look for it quantized.
    verbatim: codes and scales stay as the source has them.
    """

    spec: Spec | None
    activation: Activation
    scheme: str
    reason: str
    source: str
    matrix: bool = True
    verbatim: bool = False
    widen: bool = False


_OTHER = Treatment(None, "float", NONE, "no weight of a linear layer", "its name", matrix=False)


def treatments(source: Source, scheme: str, runtime: str, scheme_map: SchemeMap | None = None) -> dict[str, Treatment]:
    """Decide for every tensor, by the keep-tables and schemes of ``porting port``; see ``plan_quantization``.

    runtime: which lines of the tables count. Raises UsageError for an unknown scheme or one that is not known for the
    runtime, and as ``plan_quantization`` does.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"no scheme {scheme!r}", required=" or ".join(SCHEMES), met=scheme)
    block = _FLOATS.get(scheme)
    plan = plan_quantization(
        {tensor.name: tensor.shape for tensor in source.tensors.values()},
        scheme=NONE if scheme == BF16 else _LIKE if block else scheme,
        runtime=runtime,
        family=source.family,
        scheme_map=scheme_map,
    )
    return {
        tensor.name: _treatment(tensor, plan.get(tensor.name), scheme, block, source)
        for tensor in source.tensors.values()
    }


def _treatment(
    tensor: SourceTensor, decision: Decision | None, scheme: str, block: BlockSpec | MxSpec | None, source: Source
) -> Treatment:
    if decision is None:
        return _OTHER
    if scheme == BF16 and len(tensor.shape) > 1:
        return Treatment(None, "float", NONE, decision.reason, decision.source, len(tensor.shape) == 2, widen=True)
    is_fp8 = isinstance(block, BlockSpec) and block.kind == "float8_e4m3fn" and block.block == source.store.block
    if is_fp8 and tensor.entry.dtype == "F8_E4M3" and len(tensor.shape) == 2:
        return Treatment(block, "float", scheme, "stored so", "the checkpoint", verbatim=True)
    if len(tensor.shape) != 2 and decision.spec is not None:
        where = "every format here names the weights of one expert at a time"
        return Treatment(None, "float", NONE, f"not one matrix: {list(tensor.shape)}", where, matrix=False)
    spec: Spec | None = decision.spec if block is None or decision.spec is None else block
    word = scheme if block is not None and spec is not None else decision.scheme
    matrix = len(tensor.shape) == 2
    return Treatment(spec, decision.activation, word, decision.reason, decision.source, matrix)


def without_ragged(treatments: dict[str, Treatment], source: Source, where: str) -> dict[str, Treatment]:
    """Matrices whose columns blocks or groups do not divide stay in float: ``where`` has no cut-off ones."""
    found = dict(treatments)
    for name, treatment in treatments.items():
        spec, shape = treatment.spec, source.tensors[name].shape
        width = spec.block[1] if isinstance(spec, BlockSpec) else spec.group if isinstance(spec, MxSpec) else 1
        if shape and shape[-1] % width:
            found[name] = in_float(treatment, f"groups of {width} do not divide {shape[-1]} columns", where)
    return found


def with_whole_scales(treatments: dict[str, Treatment], scheme: str) -> dict[str, Treatment]:
    """Integer codes by ``WeightSpec.whole``. UsageError for a scheme without any."""
    found = dict(treatments)
    for name, treatment in treatments.items():
        if isinstance(treatment.spec, WeightSpec):
            found[name] = dataclasses.replace(treatment, spec=dataclasses.replace(treatment.spec, whole=True))
    if found == treatments:
        raise UsageError(
            f"scheme {scheme} has no integers with scales of rows", required="w8a8, w8a16, w4a8 or w4a16-g128",
            met="--divisor 127.5", fix="leave --divisor out",
        )  # fmt: skip
    return found


def in_float(treatment: Treatment, reason: str, source: str) -> Treatment:
    """The same weight left in float after all."""
    return Treatment(None, "float", NONE, reason, source, treatment.matrix)


def is_routed_expert(name: str) -> bool:
    """Whether a tensor is the weight of a routed expert."""
    return schemes().role(name.removesuffix(".weight")) == "routed_expert"


def require(met: bool, message: str, *, required: object, name: str, shape: Iterable[int], fix: str) -> None:
    """UsageError for a weight that a format cannot hold under the scheme."""
    if not met:
        raise UsageError(message, required=required, met=list(shape), where=name, fix=fix)
