"""Ranges of activations, from samples that stream through the float model.

Statistics do not depend on the order of samples nor on threads, and their size does not depend on the number of
samples: extremes, or a histogram whose bins nest exactly (see ``porting_kernels.dyadic_histogram``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from porting.errors import InvalidInputError, UsageError
from porting.parity.sampling import Sample, fit, in_order
from porting.quantization.thresholds import METHODS as FROM_HISTOGRAM
from porting.simulation.interpreter import Interpreter
from porting_kernels import native
from porting_kernels.dyadic_histogram import DyadicHistogram, NonFiniteError
from porting_passes import provenance
from porting_passes.quantization_parameters import ActivationRange
from porting_passes.quantization_style import Symmetry

METHODS = ("minmax", *FROM_HISTOGRAM)
Statistic = ActivationRange | DyadicHistogram


def calibrate(
    model: ir.Model,
    activations: Sequence[str],
    samples: Iterable[Sample],
    *,
    method: str = "minmax",
    symmetry: Symmetry = "symmetric",
    threads: int = 1,
) -> dict[str, ActivationRange]:
    """The range of each activation (float values or graph inputs of ``model``, by name) over all samples.

    Raises UsageError for an unknown method; InvalidInputError for a value that is not finite, naming it and its place,
    and for no samples at all.
    """
    if method not in METHODS:
        raise UsageError(f"no calibration method {method!r}", required=", ".join(METHODS), met=method)
    wanted = set(activations)
    interpreter = Interpreter(model)
    places = {v.name or "": provenance.place(v) for node in model.graph for v in node.outputs if v.name in wanted}

    def one(sample: Sample) -> dict[str, Statistic]:
        found: dict[str, Statistic] = {}

        def tap(value: ir.Value, tensor: torch.Tensor) -> None:
            observe(value.name or "", tensor)

        def observe(name: str, tensor: torch.Tensor) -> None:
            if tensor.numel():
                found[name] = _observe(tensor, method, name, places)

        inputs = fit(model, sample)
        for name in wanted & set(inputs):
            observe(name, inputs[name])
        interpreter.run(inputs, tap=tap, wanted=wanted)
        return found

    merged: dict[str, Statistic] = {}
    for found in in_order(one, samples, threads):
        for name, statistic in found.items():
            merged[name] = statistic if name not in merged else _merge(merged[name], statistic)
    if not merged and wanted:
        raise InvalidInputError("no samples to calibrate with", required="at least one")
    return {name: _range(merged[name], method, symmetry) for name in activations if name in merged}


def _observe(tensor: torch.Tensor, method: str, name: str, places: Mapping[str, str]) -> Statistic:
    try:
        if method != "minmax":
            return native.histogram(tensor.to(torch.float32))
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(tensor.float().numpy()))[0])
            raise NonFiniteError(float(tensor[index]), index)
        # Adding 0.0 makes one zero of the two, so that the order of samples cannot show.
        return ActivationRange(float(low) + 0.0, float(high) + 0.0)
    except NonFiniteError as error:
        raise InvalidInputError(
            f"activation {name!r} is not finite",
            required="finite values on the calibration data",
            met=error.value,
            where=f"{places.get(name, name)}, element {list(error.index)}",
            fix="check the data; a model that overflows in float32 cannot be calibrated",
        ) from error


def _merge(one: Statistic, other: Statistic) -> Statistic:
    if isinstance(one, ActivationRange):
        assert isinstance(other, ActivationRange)
        return ActivationRange(min(one.min, other.min), max(one.max, other.max))
    assert isinstance(other, DyadicHistogram)
    return one.merged(other)


def _range(statistic: Statistic, method: str, symmetry: Symmetry) -> ActivationRange:
    if isinstance(statistic, ActivationRange):
        return statistic
    return FROM_HISTOGRAM[method](statistic, symmetry)
