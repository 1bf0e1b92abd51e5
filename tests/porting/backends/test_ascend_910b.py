"""What the data of ascend-910b says about real nodes."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import pytest

from porting import backends
from porting_passes.keep_float import keep_float
from porting_passes.legality import Illegal, Legal, Unknown, check

SURFACE = backends.get("ascend-910b").surface()
SET = SURFACE.operator_set
OPSET = 17


def value(name: str, dtype: ir.DataType, shape: list[Any], *, constant: bool = False) -> ir.Value:
    made = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    if constant:
        ir.Graph([], [], nodes=[], initializers=[]).register_initializer(_filled(made))
    return made


def _filled(made: ir.Value) -> ir.Value:
    made.const_value = ir.tensor([0] * 1, dtype=made.dtype, name=made.name)
    return made


def node(op_type: str, *inputs: ir.Value | None, result: ir.DataType = ir.DataType.FLOAT, **options: Any) -> ir.Node:
    domain, outputs = options.pop("domain", ""), options.pop("outputs", 1)
    made = ir.node(op_type, list(inputs), options, domain=domain, num_outputs=outputs)
    for output in made.outputs:
        output.dtype = result
    return made


X = value("x", ir.DataType.FLOAT, [1, 8, 16, 16])
W = value("w", ir.DataType.FLOAT, [8, 8, 3, 3], constant=True)
DOUBLE = value("d", ir.DataType.DOUBLE, [1, 8, 16, 16])
CLIP_MIN = value("min", ir.DataType.FLOAT, [])
FLAT = value("flat", ir.DataType.FLOAT, [4, 8])

LEGAL = {
    "conv": node("Conv", X, W, kernel_shape=[3, 3]),
    "conv 1-D": node("Conv", value("x", ir.DataType.FLOAT, [1, 8, 16]), W, kernel_shape=[3]),
    "pool": node("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2]),
    "clip": node("Clip", X, CLIP_MIN),
    "transpose": node("Transpose", X, perm=[0, 2, 3, 1]),
    "erf": node("Erf", X),
    "gemm": node("Gemm", FLAT, FLAT, transB=1),
    "resize": node("Resize", X, None, CLIP_MIN, mode="nearest", coordinate_transformation_mode="asymmetric",
                   nearest_mode="floor"),
    "layer norm": node("LayerNormalization", FLAT, FLAT),
    "constant": node("Constant", value=ir.tensor([1.0])),
    "topk": node("TopK", X, value("k", ir.DataType.INT64, [1]), outputs=2),
}  # fmt: skip


@pytest.mark.parametrize("case", LEGAL)
def test_legal(case: str) -> None:
    assert isinstance(check(LEGAL[case], SET, OPSET), Legal)


ILLEGAL = {
    "no plug-in": (node("HannWindow", X), "operator"),
    "refused": (node("QuantizeLinear", X, CLIP_MIN), "operator"),
    "dtype": (node("Conv", DOUBLE, W, kernel_shape=[3, 3], result=ir.DataType.DOUBLE), "dtype of X"),
    "float8": (node("Relu", value("x", ir.DataType.FLOAT8E4M3FN, [1])), "dtype"),
    "indices": (node("MaxPool", X, kernel_shape=[2, 2], outputs=2), "no Indices output"),
    "same lower": (node("AveragePool", X, kernel_shape=[2, 2], auto_pad="SAME_LOWER"),
                   "auto_pad SAME_LOWER is read as SAME_UPPER"),
    "perm": (node("Transpose", X), "perm must be given"),
    "clip": (node("Clip", X), "min or max must be given"),
    "gather": (node("GatherND", X, value("i", ir.DataType.INT64, [1]), batch_dims=1), "batch_dims must be 0"),
    "rank": (node("MatMul", value("v", ir.DataType.FLOAT, [8]), FLAT), "rank 2 to 6"),
    "lrn": (node("LRN", X, size=4), "size must be odd"),
    "depth": (node("DepthToSpace", X, blocksize=1), "blocksize must be 2 or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal(case: str) -> None:
    made, rule = ILLEGAL[case]
    verdict = check(made, SET, OPSET)
    assert isinstance(verdict, Illegal)
    assert rule in [reason.rule for reason in verdict.reasons]
    assert all(reason.source for reason in verdict.reasons)


def test_opsets_outside_the_parser_are_illegal() -> None:
    verdict = check(node("Relu", X), SET, 19)
    assert isinstance(verdict, Illegal)
    assert (verdict.reasons[0].rule, verdict.reasons[0].allowed) == ("opset", "8..18")


def quantized(offset: int = 0, *, bias: bool = True, shape: tuple[int | str, ...] = (1, 8, 16, 16)) -> list[ir.Node]:
    """Quantize, IntegerConv, Dequantize in the domain porting."""
    quantize = node("Quantize", value("x", ir.DataType.FLOAT, list(shape)), domain="porting", scale=0.5, offset=offset)
    codes = quantize.outputs[0]
    codes.dtype, codes.shape = ir.DataType.INT8, ir.Shape(shape)
    operands = [codes, value("w", ir.DataType.INT8, [8, 8, 3, 3], constant=True)]
    operands += [value("b", ir.DataType.INT32, [8], constant=True)] if bias else []
    conv = node("IntegerConv", *operands, domain="porting", kernel_shape=[3, 3], x_zero_point=offset)
    conv.outputs[0].dtype = ir.DataType.INT32
    conv.outputs[0].shape = ir.Shape([1, 8, 14, 14])
    scale = value("s", ir.DataType.FLOAT, [8], constant=True)
    return [quantize, conv, node("Dequantize", conv.outputs[0], scale, domain="porting", axis=1, dtype=1)]


@pytest.mark.parametrize("bias", [True, False])
def test_static_int8_is_legal_without_an_offset(bias: bool) -> None:
    verdicts = [check(each, SET, OPSET) for each in quantized(bias=bias)]
    assert [v.row.name for v in verdicts if isinstance(v, Legal) and v.row] == [
        "AscendQuant (float to int8, one scale a tensor)",
        "Conv (int8)",
        "AscendDequant (int32 accumulator to float)",
    ]


def test_an_activation_offset_is_unknown() -> None:
    verdicts = [check(each, SET, OPSET) for each in quantized(offset=3)]
    assert [type(v) for v in verdicts] == [Unknown, Unknown, Legal]


def test_a_quantized_model_has_no_dynamic_shapes() -> None:
    verdicts = [check(each, SET, OPSET, {"n": (1, 8)}) for each in quantized(shape=("n", 8, 16, 16))]
    assert [type(v) for v in verdicts] == [Illegal, Illegal, Legal]


def test_an_accumulator_that_leaves_the_pattern_is_unknown() -> None:
    nodes = quantized()
    node("Relu", nodes[1].outputs[0])
    assert isinstance(check(nodes[1], SET, OPSET), Unknown)


def test_the_lowered_pattern_is_legal_too() -> None:
    quant = node("AscendQuant", X, scale=2.0, offset=0.0, dst_type="INT8", result=ir.DataType.INT8)
    quant.outputs[0].shape = ir.Shape([1, 8, 16, 16])
    weight = value("w", ir.DataType.INT8, [8, 8, 3, 3], constant=True)
    conv = node("Conv", quant.outputs[0], weight, kernel_shape=[3, 3], result=ir.DataType.INT32)
    dequant = node("AscendDequant", conv.outputs[0], value("s", ir.DataType.UINT64, [8], constant=True))
    assert [type(check(each, SET, OPSET)) for each in (quant, conv, dequant)] == [Legal, Legal, Legal]
    assert isinstance(check(node("AscendQuant", X, result=ir.DataType.INT8), SET, OPSET), Illegal)  # no scale


def test_the_scale_word_is_that_of_the_onnx_route() -> None:
    (row,) = SET.implementing("porting.Dequantize")
    assert row.inputs is not None
    assert row.inputs[1].packer == "float32_word"


def test_products_with_a_bias() -> None:
    assert [row.name for row in SET.implementing("porting.IntegerMatMul")] == ["Gemm (int8)", "MatMul (int8)"]
    assert SET.implementing("porting.IntegerMatMul")[1].follow is not None


def test_every_row_is_of_an_operator_that_exists() -> None:
    history = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    strangers = {row.operator for row in SET.rows} - history
    assert all(name.startswith(("Ascend", "NPU", "Quant")) for name in strangers)
    assert len({row.operator for row in SET.rows} & history) == 161


STYLE = SURFACE.quantization


@pytest.mark.parametrize(
    ("made", "kept"),
    [
        (node("Conv", X, W), False),
        (node("Conv", X, X), True),
        (node("Gemm", FLAT, value("b", ir.DataType.FLOAT, [8, 4], constant=True)), False),
        (node("Gemm", FLAT, value("b", ir.DataType.FLOAT, [8, 4], constant=True), alpha=2.0), True),
        (node("MatMul", FLAT, value("b", ir.DataType.FLOAT, [8, 4], constant=True)), False),
        (node("MatMul", FLAT, FLAT), True),
    ],
)
def test_what_stays_in_float(made: ir.Node, kept: bool) -> None:
    assert STYLE is not None
    rule = keep_float(made, STYLE, OPSET)
    assert (rule is not None) is kept
    assert rule is None or rule.reason


def test_granularity() -> None:
    assert STYLE is not None
    assert [STYLE.weight_granularity(op) for op in STYLE.operators] == ["channel", "tensor", "tensor"]
    assert STYLE.weight_granularity("Conv", depthwise=True) == "channel"
