"""Composite operators in half precision: what is carried in it, and what stays float32."""

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.convert_dtype import ConvertDtype
from porting_passes.operators import TYPES

TEXT = """<ir_version: 10, opset_import: ["": 20, "porting": 1]>
    g (float[3, 8] x) => (float[3, 4] y) <int8[3, 8] c, float[3] s, float[3, 4] p, float[3, 8] n> {
    n = porting.RMSNorm(x, gamma) c, s = porting.DynamicQuantize(n, ones)
    p = porting.QuantizedMatMul<to = 1>(c, s, w, w_scale, zero) y = Relu(p) }"""


def model():
    import onnx

    read = ir.serde.deserialize_model(onnx.parser.parse_model(TEXT))
    for name, array in {
        "gamma": np.ones(8, np.float32),
        "ones": np.ones(1, np.float32),
        "w": np.ones((4, 8), np.int8),
        "w_scale": np.ones(4, np.float32),
        "zero": np.zeros(1, np.float32),
    }.items():
        value = next(v for node in read.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
        read.graph.register_initializer(value)
    return read


@pytest.mark.parametrize("target", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_values_between_operators_are_narrow_and_scales_are_float32(target):
    converted = model()
    ConvertDtype(target)(converted)
    nodes = {node.op_type: node for node in converted.graph if node.op_type != "Cast"}
    assert [v.dtype for v in nodes["RMSNorm"].inputs] == [target, target]
    assert nodes["RMSNorm"].outputs[0].dtype == target
    assert nodes["DynamicQuantize"].inputs[0] is nodes["RMSNorm"].outputs[0]
    assert nodes["DynamicQuantize"].inputs[1].dtype == ir.DataType.FLOAT
    assert [v.dtype for v in nodes["DynamicQuantize"].outputs] == [ir.DataType.INT8, ir.DataType.FLOAT]
    product = nodes["QuantizedMatMul"]
    assert [v.dtype for v in product.inputs[1:]] == [
        ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.FLOAT, ir.DataType.FLOAT,
    ]  # fmt: skip
    assert (product.attributes["to"].as_int(), product.outputs[0].dtype) == (target, target)
    assert nodes["Relu"].inputs[0] is product.outputs[0]
    assert converted.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_every_composite_operator_says_its_types():
    assert all(set(inputs + outputs) <= set("TFIA") for inputs, outputs in TYPES.values())
