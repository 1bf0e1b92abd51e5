import numpy as np
import onnx_ir as ir

from porting_passes.complete_grouped_matmul import CompleteGroupedMatmul

TEXT = """<ir_version: 10, opset_import: ["": 20, "porting": 1]>
    g (float[4, 3] x, float[2, 3, 5] w, int64[2] o) => (float[4, 5] y) {
    a = porting.GroupedMatmul(x, w, o) b = porting.GroupedMatmul(x, w, o) c = porting.GroupedMatmul(x, w, o, d)
    e = Add(a, b) y = Add(e, c) }"""


def test_each_product_has_a_bias_and_equal_ones_share_it():
    model = ir.from_onnx_text(TEXT, initializers=[ir.tensor(np.ones((2, 5), np.float32), name="d")])
    assert CompleteGroupedMatmul()(model).modified
    names = [node.inputs[3].name for node in model.graph if node.op_type == "GroupedMatmul"]
    assert names == ["no_bias", "no_bias", "d"]
    zeros = model.graph.initializers["no_bias"]
    assert zeros.dtype == ir.DataType.FLOAT
    np.testing.assert_array_equal(zeros.const_value.numpy(), np.zeros((2, 1)))
    assert not CompleteGroupedMatmul()(model).modified
