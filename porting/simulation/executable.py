"""A port's file as something the interpreter runs: read from the file alone, not from what wrote it.

A surface whose model carries quantization as nodes has them raised to the composite operators that its rows say they
implement. A surface that keeps a float model beside a range file gets its ranges applied.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from porting.backends import Surface
from porting.quantization import range_file
from porting.weights.raw import leave_in_file
from porting_passes.quantization_style import QuantizationStyle
from porting_passes.quantize_static import QuantizeResult, QuantizeStatic
from porting_passes.raise_from_surface import RaiseFromSurface


def executable(model_file: Path, surface: Surface, ranges: Path, *, streamed: bool = False) -> ir.Model:
    """The model in ``model_file`` with operators that have kernels; weights stay in their file.

    streamed: large ones are read when a step needs them, within the interpreter's memory, and not mapped.
    """
    model = ir.load(model_file)
    if streamed:
        leave_in_file(model)
    style = surface.quantization
    if style is not None and style.carrier == "ranges":
        if ranges.exists():
            apply_ranges(model, range_file.read(ranges), style)
    elif style is not None:
        RaiseFromSurface(surface.operator_set)(model)
    return model


def apply_ranges(model: ir.Model, ranges: range_file.Ranges, style: QuantizationStyle) -> QuantizeResult:
    """Quantize the listed nodes of a float model in place, with the weights' magnitudes as they are listed."""
    exclude = {
        value.name: "not listed in the range file"
        for node in model.graph
        for value in node.outputs
        if value.name and value.name not in ranges.listed
    }
    result = QuantizeStatic(ranges.activations, style, weight_absmax=ranges.weight_absmax, exclude=exclude)(model)
    assert isinstance(result, QuantizeResult)
    return result
