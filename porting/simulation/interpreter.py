"""A model as something to run: named numpy or torch inputs in, named torch outputs out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from porting.simulation.plan import Observer, Step
from porting.simulation.planner import Bind, Planner, data_of
from porting.simulation.weight_cache import CachedWeight, WeightCache
from porting_kernels import dtypes
from porting_kernels.errors import DtypeError, PortingError, ShapeError
from porting_kernels.numerics import EXACT, Numerics

Tap = Callable[[ir.Value, torch.Tensor], "torch.Tensor | None"]


class InputError(PortingError):
    """Inputs that are missing, or that the model does not have."""


class Interpreter:
    """Runs a model on CPU, node by node.

    model: read once, when the interpreter is made; later changes to it are not seen. Its weights stay where they are.
    numerics: how operators compute; with ``float64`` every floating-point value is float64 from the inputs on.
    memory: bytes of a checkpoint's weights that stay in memory between their uses, or a cache that several interpreters
    share; None for all of them.
    bind, device: calls of something else than our kernels, and where they want constants; see ``Planner``.

    Raises UnsupportedOperatorError, when made, for an operator that nothing gives a meaning to. ``run`` may be called
    from several threads at once. It uses torch's intra-op threads as they are set.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        numerics: Numerics = EXACT,
        memory: int | WeightCache | None = None,
        bind: Bind | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._numerics = numerics
        self._device = device
        cache = memory if isinstance(memory, WeightCache) else WeightCache(memory)
        planner = Planner(model, numerics, cache, bind=bind, device=device)
        self._inputs = tuple(model.graph.inputs)
        self._outputs = tuple(model.graph.outputs)
        self._plan, self._slots = planner.main(model.graph)
        self._defaults = {
            value.name: planner.tensor(data_of(value))
            for value in self._inputs
            if value.is_initializer() and value.const_value is not None
        }

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        """The model's inputs, in order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        """The model's outputs, in order."""
        return self._outputs

    def run(
        self,
        inputs: Mapping[str, torch.Tensor | np.ndarray | list[Any] | None],
        *,
        tap: Tap | None = None,
        wanted: Collection[str] | None = None,
    ) -> dict[str, Any]:
        """Compute all outputs.

        inputs: by name; a sequence is a list, an empty optional None. Inputs with a default may be left out.
        tap: called with every tensor that a node of the main graph computes, before it is freed; a tensor that it
        returns takes the value's place downstream. wanted: limits the tap to values of these names.

        Returns one torch tensor (or list, or None for an empty optional) an output; they may share memory with the
        inputs and the weights. Raises InputError, ShapeError or DtypeError for inputs that do not fit the model, and
        ExecutionError where a node fails.
        """
        arguments = self._arguments(inputs)
        observe = None if tap is None else self._observer(tap, wanted)
        with torch.inference_mode():
            results = self._plan(*arguments, observe=observe)
        return {str(value.name): _plain(result) for value, result in zip(self._outputs, results, strict=True)}

    def _observer(self, tap: Tap, wanted: Collection[str] | None) -> Observer:
        names = None if wanted is None else frozenset(wanted)

        def observe(step: Step, frame: list[Any]) -> None:
            for value, slot in zip(step.node.outputs, step.outputs, strict=True):
                seen = frame[slot]
                if isinstance(seen, torch.Tensor) and (names is None or value.name in names):
                    replacement = tap(value, seen)
                    if replacement is not None:
                        frame[slot] = replacement

        return observe

    def _arguments(self, inputs: Mapping[str, Any]) -> list[Any]:
        known = {str(value.name) for value in self._inputs}
        needed = [v for v in self._inputs if v.name not in self._defaults and not isinstance(v.type, ir.OptionalType)]
        missing = [str(value.name) for value in needed if value.name not in inputs]
        unknown = sorted(set(inputs) - known)
        if missing or unknown:
            raise InputError(
                "inputs do not match those of the model",
                required="; ".join(map(_declared, self._inputs)) or "none",
                met=", ".join(inputs) or "none",
                fix="; ".join(
                    [f"add {', '.join(missing)}"] * bool(missing) + [f"leave out {', '.join(unknown)}"] * bool(unknown)
                ),
            )
        symbols: dict[str, tuple[int, str]] = {}
        return [self._argument(value, inputs, symbols) for value in self._inputs]

    def _argument(self, value: ir.Value, inputs: Mapping[str, Any], symbols: dict[str, tuple[int, str]]) -> Any:
        if value.name not in inputs:
            return self._defaults.get(value.name)
        given = inputs[str(value.name)]
        if given is None and isinstance(value.type, ir.OptionalType):
            return None
        if isinstance(given, list | tuple):
            return [self._converted(value, item) for item in given]
        tensor = self._converted(value, given)
        if isinstance(value.type, ir.TensorType) and value.shape is not None:
            _check_shape(value, tensor, symbols)
        return tensor

    def _converted(self, value: ir.Value, given: Any) -> torch.Tensor:
        tensor = given if isinstance(given, torch.Tensor) else dtypes.to_torch(np.asarray(given))
        if value.dtype is not None:
            expected = dtypes.torch_dtype(value.dtype)
            accepted = {expected, dtypes.promoted(expected)} if self._numerics.float64 else {expected}
            if tensor.dtype not in accepted:
                raise DtypeError(
                    f"input {value.name!r} has another dtype than the model's",
                    required=_declared(value),
                    met=dtypes.describe(tensor),
                )
        if self._device is not None:
            tensor = tensor.to(self._device)
        return tensor.to(dtypes.promoted(tensor.dtype)) if self._numerics.float64 else tensor


def _plain(result: Any) -> Any:
    """A result as callers expect it: in memory and contiguous, whatever layout a kernel preferred."""
    if isinstance(result, CachedWeight):
        return result.tensor()
    return result.contiguous() if isinstance(result, torch.Tensor) else result


def _declared(value: ir.Value) -> str:
    dtype = value.dtype
    text = "any" if dtype is None else dtypes.by_code(dtype).name.lower() if dtype != ir.DataType.STRING else "string"
    if value.shape is None:
        return f"{value.name}: {text}"
    dims = ",".join(str(dim if isinstance(dim, int) else dim.value or "?") for dim in value.shape)
    return f"{value.name}: {text}[{dims}]"


def _check_shape(value: ir.Value, tensor: torch.Tensor, symbols: dict[str, tuple[int, str]]) -> None:
    """Fixed dimensions are equal; a dimension's symbol has one size in all inputs."""
    assert value.shape is not None
    if len(value.shape) != tensor.dim():
        raise ShapeError(
            f"input {value.name!r} has another rank than the model's",
            required=_declared(value),
            met=dtypes.describe(tensor),
        )
    for axis, (dim, size) in enumerate(zip(value.shape, tensor.shape, strict=True)):
        expected = dim if isinstance(dim, int) else None
        reason = ""
        if not isinstance(dim, int) and dim.value is not None:
            expected, first = symbols.setdefault(dim.value, (size, str(value.name)))
            reason = f" ({dim.value} is {expected} in input {first!r})"
        if expected is not None and expected != size:
            raise ShapeError(
                f"input {value.name!r} has another size than the model's at axis {axis}",
                required=_declared(value) + reason,
                met=dtypes.describe(tensor),
            )
