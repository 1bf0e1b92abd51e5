import numpy as np
import onnx_ir as ir
import pytest

from porting_passes import provenance
from porting_passes.infer_shapes import InferShapes
from porting_passes.lower_to_surface import LowerToSurface
from porting_passes.operator_set import OperatorSet
from porting_passes.quantization_style import QuantizationStyle
from porting_passes.quantize_static import ActivationRange, QuantizeStatic

STYLE = QuantizationStyle(
    operators=("Conv", "Gemm", "MatMul"),
    activation="symmetric",
    weight={"Conv": "channel", "Gemm": "tensor", "MatMul": "tensor"},
    depthwise="channel",
    bias="int32",
    parameters="reciprocal_scale",
    carrier="nodes",
)


def row(operator: str, implements: str | None, inputs: list[dict], output: str, **fields: object) -> dict:
    return {
        "operator": operator,
        "domain": "",
        "opset": [8, 22],
        "implements": implements,
        "inputs": inputs,
        "outputs": [{"name": "y", "dtypes": [output]}],
        "source": ["page 1"],
        "evidence": "doc",
        **fields,
    }


def int8(*names: str) -> list[dict]:
    return [{"name": name, "dtypes": ["int8"]} for name in names]


BIAS = {"name": "C", "dtypes": ["int32"], "optional": True}
SET = OperatorSet.from_json(
    {
        "surface": "made up",
        "opset": 13,
        "unlisted": "unknown",
        "unlisted_reason": {"reason": "not said", "source": "page 0"},
        "rows": [
            row(
                "ToCodes",
                "porting.Quantize",
                [{"name": "x", "dtypes": ["float32"]}],
                "int8",
                attributes={
                    "factor": {"type": "float", "from": "scale", "required": True},
                    "shift": {"type": "float", "from": "offset", "default": 0.0},
                    "kind": {"type": "string", "constant": "INT8"},
                    "mode": {"type": "int", "default": 0},
                },
            ),
            row(
                "ToFloat",
                "porting.Dequantize",
                [
                    {"name": "word", "operand": 1, "packer": "float32_word", "dtypes": ["uint64"]},
                    {"name": "x", "operand": 0, "dtypes": ["int32"]},
                ],
                "float32",
                attributes={"type": {"type": "int", "from": "dtype", "values": [[1, 0], [10, 1]], "default": 0}},
            ),
            row(
                "Conv",
                "porting.IntegerConv",
                [*int8("X", "W"), BIAS],
                "int32",
                attributes={n: {"type": "ints", "from": n} for n in ("pads", "strides", "dilations", "kernel_shape")},
            ),
            row(
                "Gemm",
                "porting.IntegerMatMul",
                [*int8("A", "B"), BIAS],
                "int32",
                constraints=[{"text": "rank 2", "expression": "rank(A) == 2", "source": "page 2"}],
            ),
            row(
                "MatMul",
                "porting.IntegerMatMul",
                int8("A", "B"),
                "int32",
                follow={"operator": "Add", "operand": 2},
                constraints=[
                    {"text": "said for rank 3", "expression": "rank(A) == 3", "source": "page 3", "verdict": "unknown"}
                ],
            ),
        ],
    }
)


def lowered(body: str, x: str, ranges: dict[str, ActivationRange], **weights: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    text = f'<ir_version: 8, opset_import: ["" : 13]> agraph (float[{x}] x) => (float y) {{ {body} }}'
    model = ir.from_onnx_text(text, initializers=tensors)
    InferShapes()(model)
    for node in model.graph:
        provenance.set_(node.outputs[0], provenance.Provenance(sources=(node.outputs[0].name,), equal=True))
    QuantizeStatic(ranges, STYLE)(model)
    LowerToSurface(SET)(model)
    return model


UNIT = {"x": ActivationRange(-1.0, 1.0)}


def test_a_convolution_becomes_the_surface_s_own_chain():
    b = np.float32([0.25, 0])
    model = lowered(
        "y = Conv<pads=[1, 1, 1, 1]>(x, w, b)", "1, 2, 4, 4", UNIT, w=np.ones((2, 2, 3, 3), np.float32), b=b
    )
    quantize, conv, dequantize = model.graph
    assert (quantize.op_type, conv.op_type, dequantize.op_type) == ("ToCodes", "Conv", "ToFloat")
    assert {n: a.value for n, a in quantize.attributes.items()} == {"factor": 127.0, "shift": 0.0, "kind": "INT8"}
    assert {n: list(a.value) for n, a in conv.attributes.items()} == {"pads": [1, 1, 1, 1]}
    assert [v.dtype for v in conv.inputs] == [ir.DataType.INT8, ir.DataType.INT8, ir.DataType.INT32]
    # 0.25 * 127 * 127 = 4032.25
    assert conv.inputs[2].const_value.numpy().tolist() == [4032, 0]
    assert {n: a.value for n, a in dequantize.attributes.items()} == {"type": 0}
    assert "porting" not in model.opset_imports
    assert provenance.of(dequantize.outputs[0]).rules == ("quantize_static", "lower_to_surface")
    assert provenance.of(dequantize.outputs[0]).equal


def test_operands_follow_the_row_s_order_in_its_packed_form():
    model = lowered("y = MatMul(x, w)", "2, 3", UNIT, w=np.eye(3, dtype=np.float32))
    word, acc = list(model.graph)[-1].inputs
    assert acc.producer().op_type == "Gemm"
    assert word.dtype == ir.DataType.UINT64
    scale = np.float32(np.float64(np.float32(1) / np.float32(127)) / 127)
    assert word.const_value.numpy().tolist() == [int(scale.view(np.uint32))]


def test_a_bias_of_zeros_is_left_out():
    model = lowered("y = Conv(x, w)", "1, 2, 4, 4", UNIT, w=np.ones((2, 2, 1, 1), np.float32))
    assert len(list(model.graph)[1].inputs) == 2
    assert not [v for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT32]


@pytest.mark.parametrize(("x", "operator"), [("2, 3", "Gemm"), ("4, 2, 3", "MatMul"), ("2, 2, 2, 3", "MatMul")])
def test_the_first_row_without_an_illegal_point_is_taken(x, operator):
    model = lowered("y = MatMul(x, w)", x, UNIT, w=np.eye(3, dtype=np.float32))
    assert [n.op_type for n in model.graph] == ["ToCodes", operator, "ToFloat"]


def test_a_row_without_a_place_for_the_bias_is_followed_by_what_adds_it():
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 13, "porting" : 1]>'
        "agraph (int8[4, 2, 3] a) => (int32[4, 2, 2] y) { y = porting.IntegerMatMul(a, b, c) }",
        initializers=[ir.tensor(np.ones((3, 2), np.int8), name="b"), ir.tensor(np.int32([7]), name="c")],
    )
    LowerToSurface(SET)(model)
    product, add = model.graph
    assert (product.op_type, add.op_type, add.outputs[0].name) == ("MatMul", "Add", "y")
    assert add.inputs[1].const_value.numpy().tolist() == [7, 7]


def test_a_surface_that_takes_composites_is_left_alone():
    rows: list[dict] = []
    everything = OperatorSet.from_json(
        {
            "surface": "r",
            "opset": None,
            "unlisted": "legal",
            "unlisted_reason": {"reason": "", "source": ""},
            "rows": rows,
        }
    )
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 13, "porting" : 1]>'
        "agraph (float[2] x) => (int8[2] y) { y = porting.Quantize<scale=2.0>(x) }"
    )
    assert not LowerToSurface(everything)(model).modified
    assert [n.op_type for n in model.graph] == ["Quantize"]
    assert model.opset_imports["porting"] == 1


SMALL_OR_ANY = OperatorSet.from_json(
    {
        "surface": "made up",
        "opset": 13,
        "unlisted": "illegal",
        "unlisted_reason": {"reason": "not said", "source": "page 0"},
        "rows": [
            row(
                "FewRows",
                "porting.IntegerMatMul",
                int8("A", "B"),
                "int32",
                constraints=[{"text": "at most 4 rows", "expression": "dim(A, 0) <= 4", "source": "page 4"}],
            ),
            row("AnyRows", "porting.IntegerMatMul", int8("A", "B"), "int32"),
        ],
    }
)


@pytest.mark.parametrize(
    ("dims", "operator"), [({"n": (1, 4)}, "FewRows"), ({"n": (1, 8)}, "AnyRows"), ({}, "AnyRows")]
)
def test_a_limit_on_a_symbol_is_decided_over_its_range(dims, operator):
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 13, "porting" : 1]>'
        "agraph (int8[n, 3] a) => (int32[n, 2] y) { y = porting.IntegerMatMul(a, b) }",
        initializers=[ir.tensor(np.ones((3, 2), np.int8), name="b")],
    )
    InferShapes()(model)
    LowerToSurface(SMALL_OR_ANY, dims)(model)
    assert [n.op_type for n in model.graph] == [operator]
