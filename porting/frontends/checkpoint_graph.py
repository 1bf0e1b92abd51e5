"""A Hugging Face config -> a graph of its language model, without any weight.

The model is made on the meta device and exported with symbolic batch and sequence. Its initializers that a checkpoint
fills have a type, a shape and no data yet; what transformers computes from the config alone (rotary frequencies) has.
"""

from __future__ import annotations

import contextlib
import logging
import re
import unittest.mock
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch

from porting.errors import InvalidModelError
from porting.frontends import checkpoint_translations, origin
from porting_passes.eliminate_dead_code import EliminateDeadCode
from porting_passes.eliminate_identity import EliminateIdentity

OPSET = 20
DIMS = ("batch", "sequence")


def instantiate(config: Any) -> Any:
    """The causal language model of a config on the meta device: float32, eager attention, experts that stay folded."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise InvalidModelError(
            f"{config.model_type} is no causal language model of transformers",
            required="an architecture that AutoModelForCausalLM knows",
            met=", ".join(getattr(config, "architectures", None) or [type(config).__name__]),
        ) from None
    with torch.device("meta"), _quiet():
        module = architecture._from_config(config, dtype=torch.float32, attn_implementation="eager")
    if module._can_set_experts_implementation():
        module.set_experts_implementation("grouped_mm")
    return module.eval().requires_grad_(False)


def export(module: Any) -> ir.Model:
    """input_ids int64 [batch, sequence] -> logits float32 [batch, sequence, vocabulary], at opset 20.

    Initializers have the names of the module's parameters and buffers. Raises InvalidModelError, with the operator
    and the place in the model's code, for what torch.export or the ONNX exporter does not take.
    """
    try:
        with torch.no_grad(), _quiet(), _one_sequence():
            program = torch.export.export(
                _LogitsOnly.of(module),
                (torch.zeros(2, 5, dtype=torch.int64, device="meta"),),
                dynamic_shapes={"input_ids": {axis: torch.export.Dim(name) for axis, name in enumerate(DIMS)}},
                strict=False,
            )
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                output_names=["logits"],
                custom_translation_table=checkpoint_translations.table(),
            )
    except Exception as error:
        raise InvalidModelError(
            f"{module.config.model_type} does not export",
            met=_cause(error),
            fix="no graph can be made of this architecture; `porting checkpoint` needs none",
        ) from error
    assert exported is not None
    model = exported.model
    _name_dims(model)
    origin.stamp(model)
    _bind_computed(model, module)
    EliminateIdentity()(model)
    EliminateDeadCode()(model)
    for node in model.graph:
        node.meta.clear()  # it holds the traced program, several times the size of the graph
    return model


class _LogitsOnly:
    """The module with a forward of one tensor to one tensor, so that its parameters keep their names."""

    @staticmethod
    def of(module: Any) -> Any:
        plain = type(module).forward

        def forward(input_ids: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = plain(module, input_ids=input_ids, use_cache=False).logits
            return logits.to(torch.float32)

        module.forward = forward
        return module


def computed_buffers(module: Any) -> dict[str, torch.Tensor]:
    """The buffers that no checkpoint stores, computed by transformers' own initialization on the CPU.

    They are filled with NaN (the lowest integer) before, so that one which initialization does not reach is noticed:
    InvalidModelError.
    """
    found: dict[str, torch.Tensor] = {}
    for name, buffer in list(module.named_non_persistent_buffers()):
        if not buffer.is_meta:
            found[name] = buffer
            continue
        owner = module.get_submodule(name.rpartition(".")[0])
        empty = float("nan") if buffer.is_floating_point() else _unset(buffer.dtype)
        found[name] = torch.full(buffer.shape, empty, dtype=buffer.dtype, device="cpu")
        owner._buffers[name.rpartition(".")[2]] = found[name]
    with torch.no_grad(), _quiet():
        for owner in dict.fromkeys(module.get_submodule(name.rpartition(".")[0]) for name in found):
            _initializer(module, owner)(owner)
    found = dict(module.named_non_persistent_buffers())
    missed = [n for n, b in found.items() if b.numel() and _is_unset(b)]
    if missed:
        raise InvalidModelError(
            f"buffers of {module.config.model_type} that nothing computes",
            required="values from the checkpoint or from transformers' initialization",
            met=", ".join(missed),
        )
    return found


def _initializer(module: Any, owner: Any) -> Any:
    """The initialization of the innermost model around a module: composite models have one each."""
    from transformers import PreTrainedModel

    best = module
    for candidate in module.modules():
        if isinstance(candidate, PreTrainedModel) and any(inner is owner for inner in candidate.modules()):
            best = candidate
    return best._init_weights


def _unset(dtype: torch.dtype) -> int | bool:
    return False if dtype == torch.bool else torch.iinfo(dtype).min


def _is_unset(buffer: torch.Tensor) -> bool:
    if buffer.dtype == torch.bool:
        return False
    empty = buffer.isnan() if buffer.is_floating_point() else buffer == _unset(buffer.dtype)
    return bool(empty.any())


def _bind_computed(model: ir.Model, module: Any) -> None:
    """Give computed buffers their values and take the empty ones from everything else."""
    computed = computed_buffers(module)
    known = set(module.state_dict())
    for name, value in model.graph.initializers.items():
        tensor = getattr(value.const_value, "raw", None)
        if name in computed:
            value.const_value = ir.tensor(computed[name].numpy(), name=name)
        elif name in known:
            value.const_value = None
        elif isinstance(tensor, torch.Tensor) and tensor.is_meta:
            raise InvalidModelError(
                f"{module.config.model_type} computes a constant while it is made, which the meta device cannot",
                met=name,
            )


def _name_dims(model: ir.Model) -> None:
    """The exporter's symbols s70 ... -> batch and sequence, in every shape."""
    shape = model.graph.inputs[0].shape
    assert shape is not None
    names = {str(dim.value): name for dim, name in zip(shape, DIMS, strict=True) if isinstance(dim, ir.SymbolicDim)}
    pattern = re.compile(rf"\b({'|'.join(names)})\b")
    renamed: dict[str, str] = {}

    def rename(text: str) -> str:
        if text not in renamed:
            renamed[text] = pattern.sub(lambda match: names[match[0]], text)
        return renamed[text]

    for value in _values(model.graph):
        if value.shape is not None and not value.shape.is_static():
            dims = [d if isinstance(d, int) or d.value is None else rename(d.value) for d in value.shape]
            value.shape = ir.Shape(dims)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


@contextlib.contextmanager
def _one_sequence() -> Iterator[None]:
    """Positions that a model makes itself are 0, 1, 2 ...: the test for several sequences packed into one is skipped.

    Outside a trace transformers decides so by the values; in a trace it cannot, and every mask would carry the test.
    """
    from transformers import masking_utils

    with unittest.mock.patch.object(masking_utils, "find_packed_sequence_indices", lambda position_ids: None):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter and transformers remark on says nothing about this model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The innermost exception: the outer ones only say at which step the exporter was."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
