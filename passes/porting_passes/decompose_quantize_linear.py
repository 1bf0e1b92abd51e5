"""QuantizeLinear and DequantizeLinear by Div, Round, Clip, Mul and Cast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from porting_passes.builder import Builder
from porting_passes.contract import EXACT, Contract
from porting_passes.decomposition import Case, Decomposition, Run, case, examples
from porting_passes.node_facts import attribute, operand, rank, required

_RANGES = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
}


def _common(node: ir.Node) -> str | None:
    if attribute(node, "block_size", 0):
        return "the scale is per block"
    scale_rank = rank(node.inputs[1])
    if scale_rank is None or rank(node.inputs[0]) is None:
        return "the ranks are unknown"
    return None if scale_rank <= 1 else "the scale is per block"


def _code_type(node: ir.Node) -> ir.DataType | None:
    zero = operand(node, 2)
    if zero is not None:
        return zero.dtype
    return ir.DataType(attribute(node, "output_dtype", 0) or ir.DataType.UINT8)


def _quantize_applies(node: ir.Node, opset: int) -> str | None:
    if _code_type(node) not in _RANGES:
        return "the codes are not 8-bit or 16-bit integers"
    if required(node, 0).dtype != ir.DataType.FLOAT or required(node, 1).dtype != ir.DataType.FLOAT:
        return "the operands are not float32"
    return _common(node)


def _dequantize_applies(node: ir.Node, opset: int) -> str | None:
    if required(node, 0).dtype not in (*_RANGES, ir.DataType.INT32):
        return "the codes are not integers of at least 8 bits"
    return _common(node)


def _along_axis(b: Builder, node: ir.Node, vector: ir.Value) -> ir.Value:
    """A per-channel vector shaped to broadcast along the attribute ``axis`` of the first operand."""
    if rank(vector) != 1:
        return vector
    dims = b.rank_of(required(node, 0))
    after = dims - 1 - attribute(node, "axis", 1) % dims
    return b.unsqueeze(vector, range(1, 1 + after)) if after else vector


def _quantize(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """saturate(round half to even (x / scale) + zero), all before the cast in float32, where the codes are exact."""
    x, zero, code = required(node, 0), operand(node, 2), _code_type(node)
    assert code is not None
    steps = b.Round(b.Div(x, _along_axis(b, node, required(node, 1))))
    if zero is not None:
        steps = b.Add(steps, _along_axis(b, node, b.Cast(zero, to=ir.DataType.FLOAT.value)))
    low, high = _RANGES[code]
    return [b.Cast(b.Clip(steps, b.scalar(low, steps), b.scalar(high, steps)), to=code.value)]


def _dequantize(b: Builder, node: ir.Node) -> Sequence[ir.Value]:
    """(x - zero) * scale; the difference is exact in float32 for codes of up to 16 bits."""
    scale, zero = required(node, 1), operand(node, 2)
    dtype = ir.DataType(attribute(node, "output_dtype", 0) or b.dtype_of(scale))
    codes = b.cast(required(node, 0), ir.DataType.FLOAT)
    if zero is not None:
        codes = b.Sub(codes, _along_axis(b, node, b.cast(zero, ir.DataType.FLOAT)))
    wide = b.cast(_along_axis(b, node, scale), ir.DataType.FLOAT)
    return [b.cast(b.Mul(codes, wide), dtype)]


_SCALE = np.array(0.1, np.float32)
_SCALES = np.array([0.1, 0.2, 0.05], np.float32)
_ZEROS = np.array([3, -4, 0], np.int8)
_CODES = Run((2, 3, 4), ir.DataType.INT8)
_FLOAT = (ir.DataType.FLOAT,)

DECOMPOSITIONS = (
    Decomposition(
        "quantize_linear_by_round",
        "QuantizeLinear",
        _quantize,
        Contract("exact", reason="the code of NaN and of infinity is not specified", nonfinite=False),
        examples(
            "QuantizeLinear",
            case("signed", Run((2, 3, 4)), _SCALE, np.array(3, np.int8)),
            case("unsigned", Run((2, 3, 4)), _SCALE, np.array(128, np.uint8)),
            case("no zero point", Run((2, 3, 4)), _SCALE),
            case("per channel", Run((2, 3, 4)), _SCALES, _ZEROS, axis=1),
            dtypes=_FLOAT,
        ),
        _quantize_applies,
    ),
    Decomposition(
        "dequantize_linear_by_mul",
        "DequantizeLinear",
        _dequantize,
        EXACT,
        examples(
            "DequantizeLinear",
            case("signed", _CODES, _SCALE, np.array(3, np.int8)),
            case("no zero point", _CODES, _SCALE),
            case("per channel", _CODES, _SCALES, _ZEROS, axis=1),
            Case("int32", (Run((2, 3), ir.DataType.INT32), _SCALE)),
            Case("narrower result", (_CODES, _SCALE), {"output_dtype": ir.DataType.FLOAT16.value}, opsets=(24,)),
            dtypes=_FLOAT,
        ),
        _dequantize_applies,
    ),
)
