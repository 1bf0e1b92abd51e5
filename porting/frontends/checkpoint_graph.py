"""A Hugging Face config -> a graph of its language model, without any weight.

The model is made on the meta device and exported with symbolic batch and sequence. Its initializers that a checkpoint
fills have a type, a shape and no data yet; what transformers computes from the config alone (rotary frequencies) has.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import unittest.mock
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch

from porting.errors import InvalidModelError
from porting.frontends import checkpoint_translations, layer_copies, origin, repeated_layers
from porting_passes.eliminate_dead_code import EliminateDeadCode
from porting_passes.eliminate_identity import EliminateIdentity

OPSET = 20
DIMS = ("batch", "sequence")
_log = logging.getLogger(__name__)


def instantiate(config: Any, *, experts: str = "grouped_mm") -> Any:
    """The causal language model of a config on the meta device, float32, eager attention.

    experts: transformers' name of how they are computed; ``grouped_mm`` stays folded in a trace, where ``eager`` would
    keep only the experts that the sample hit. Raises InvalidModelError for what is no causal language model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise InvalidModelError(
            f"{config.model_type} is no causal language model of transformers",
            required="an architecture that AutoModelForCausalLM knows",
            met=", ".join(getattr(config, "architectures", None) or [type(config).__name__]),
        ) from None
    with torch.device("meta"), _quiet():
        module = architecture._from_config(config, dtype=torch.float32, attn_implementation="eager")
    if module._can_set_experts_implementation():
        module.set_experts_implementation(experts)
    return module.eval().requires_grad_(False)


def export(module: Any) -> ir.Model:
    """input_ids int64 [batch, sequence] -> logits float32 [batch, sequence, vocabulary], at opset 20.

    Initializers have the names of the module's parameters and buffers. Raises InvalidModelError, with the operator
    and the place in the model's code, for what torch.export or the ONNX exporter does not take.
    """
    model = _export_repeated(module) or _export_whole(module)
    origin.stamp(model)
    _bind_computed(model, module)
    EliminateIdentity()(model)
    EliminateDeadCode()(model)
    for node in model.graph:
        node.meta.clear()  # it holds the traced program, several times the size of the graph
    return model


def _export_repeated(module: Any) -> ir.Model | None:
    """Every layer from a trace with two of each run of equal ones; None where that is not certain to be the same."""
    runs = repeated_layers.find_runs(module)
    if not runs:
        return None
    try:
        with repeated_layers.skipping(module, runs):
            model = _export_whole(module)
        for run in runs:
            layer_copies.stamp_out(model.graph, run)
    except (repeated_layers.LayersDiffer, InvalidModelError) as error:
        _log.info("every layer of %s is exported: %s", module.config.model_type, error)
        return None
    return model


def _export_whole(module: Any) -> ir.Model:
    plain = type(module).forward

    def forward(input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = plain(module, input_ids=input_ids, use_cache=False).logits
        return logits.to(torch.float32)

    try:
        # One tensor to one tensor, on the module itself: inside another one its parameters had other names.
        with torch.no_grad(), _quiet(), _one_sequence(), unittest.mock.patch.object(module, "forward", forward):
            program = torch.export.export(
                module,
                (torch.zeros(2, 5, dtype=torch.int64, device="meta"),),
                dynamic_shapes={"input_ids": {axis: torch.export.Dim(name) for axis, name in enumerate(DIMS)}},
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            _check_asserts(program)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                output_names=["logits"],
                custom_translation_table=checkpoint_translations.table(),
            )
    except (InvalidModelError, repeated_layers.LayersDiffer):
        raise
    except Exception as error:
        raise InvalidModelError(
            f"{module.config.model_type} does not export",
            met=_cause(error),
            fix="no graph can be made of this architecture; `porting checkpoint` needs none",
        ) from error
    assert exported is not None
    _name_dims(exported.model)
    return exported.model


def _check_asserts(program: torch.export.ExportedProgram) -> None:
    """Refuse a program that holds for some sizes only.

    What torch cannot prove of a model's own branches on sizes it asserts, and the ONNX exporter drops assertions. Each
    is tried here at small, odd and large sizes. (Those on sizes that depend on data are about the data: left out.)
    """
    ids = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name == "input_ids")
    symbols = [size.node.expr for size in ids.meta["val"].shape if isinstance(size, torch.SymInt)]
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten._assert_scalar.default or not isinstance(node.args[0], torch.fx.Node):
            continue
        expression = getattr(getattr(node.args[0].meta.get("val"), "node", None), "expr", None)
        if expression is None or not expression.free_symbols <= set(symbols):
            continue
        for sizes in itertools.product(*([1, 2, 3, 8, 127, 128, 129, 4096, 100_003] for _ in symbols)):
            if not expression.subs(dict(zip(symbols, sizes, strict=True))):
                raise InvalidModelError(
                    "the exported program does not hold for every size",
                    required=node.args[1],
                    met=", ".join(f"{symbol} = {size}" for symbol, size in zip(symbols, sizes, strict=True)),
                )


def materialize(module: Any) -> dict[str, torch.Tensor]:
    """Compute the buffers that no checkpoint stores, by transformers' own initialization on the CPU, in place.

    They are filled with NaN (the lowest integer) before, so that one which initialization does not reach is noticed:
    InvalidModelError. Returns them by name.
    """
    names = [name for name, _ in module.named_non_persistent_buffers()]
    owners = [module.get_submodule(name.rpartition(".")[0]) for name in names]
    for name, owner in zip(names, owners, strict=True):
        key = name.rpartition(".")[2]
        if owner._buffers[key].is_meta:
            owner._buffers[key] = torch.full_like(owner._buffers[key], _unset(owner._buffers[key]), device="cpu")
    with torch.no_grad(), _quiet():
        for owner in dict.fromkeys(owners):
            _initializer(module, owner)(owner)
    found = dict(module.named_non_persistent_buffers())
    missed = [name for name, buffer in found.items() if bool(_is_unset(buffer).any())]
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


def _unset(like: torch.Tensor) -> float | int:
    if like.is_floating_point():
        return float("nan")
    return 0 if like.dtype == torch.bool else torch.iinfo(like.dtype).min


def _is_unset(buffer: torch.Tensor) -> torch.Tensor:
    if buffer.is_floating_point():
        return buffer.isnan()
    return torch.zeros(1, dtype=torch.bool) if buffer.dtype == torch.bool else buffer == _unset(buffer)


def _bind_computed(model: ir.Model, module: Any) -> None:
    """Give computed buffers their values and take the empty ones from everything else."""
    computed = materialize(module)
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

    with unittest.mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None):
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
