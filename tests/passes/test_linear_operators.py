import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.linear_operators import Linear, linear_of


def node_of(body: str, x: str = "float[2, 3]", **weights: np.ndarray) -> ir.Node:
    """The only node of ``agraph (x, z) => (y)``."""
    tensors = [ir.tensor(array, name=name) for name, array in weights.items() if name in body]
    text = f'<ir_version: 8, opset_import: ["" : 13]> agraph ({x} x, float[3, 4] z) => (float y) {{ {body} }}'
    return ir.from_onnx_text(text, initializers=tensors).graph.node(0)


W = np.ones((3, 4), np.float32)


def test_a_matrix_product():
    found = linear_of(node_of("y = MatMul(x, w)", w=W))
    assert isinstance(found, Linear)
    assert (found.channel_axis, found.channels, found.bias, found.alpha) == (1, 4, None, 1.0)


def test_a_gemm_with_everything():
    found = linear_of(
        node_of("y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, c)", w=W.T.copy(), c=np.ones(4, np.float32))
    )
    assert isinstance(found, Linear)
    assert (found.channel_axis, found.channels, found.alpha, found.beta) == (0, 4, 0.5, 2.0)
    assert found.bias is not None


def test_a_gemm_whose_bias_counts_nothing():
    found = linear_of(node_of("y = Gemm<beta=0.0>(x, w, c)", w=W, c=np.ones(4, np.float32)))
    assert isinstance(found, Linear)
    assert found.bias is None


@pytest.mark.parametrize(("group", "shape", "depthwise"), [(1, (4, 3, 1, 1), False), (3, (6, 1, 3, 3), True)])
def test_a_convolution(group, shape, depthwise):
    node = node_of(f"y = Conv<group={group}>(x, w)", x="float[1, 3, 5, 5]", w=np.ones(shape, np.float32))
    found = linear_of(node)
    assert isinstance(found, Linear)
    assert (found.channel_axis, found.channels, found.depthwise) == (0, shape[0], depthwise)


@pytest.mark.parametrize(
    ("body", "x", "weight", "reason"),
    [
        ("y = MatMul(x, z)", "float[2, 3]", W, "computed at run time"),
        ("y = MatMul(w, x)", "float[4, 2]", W, "constant is on the left"),
        ("y = MatMul(x, w)", "float[3]", W, "is a vector"),
        ("y = MatMul(x, w)", "float[5, 2, 3]", np.ones((5, 3, 4), np.float32), "rank 3, not 2"),
        ("y = MatMul(x, w)", "double[2, 3]", W.astype(np.float64), "double"),
        ("y = Gemm<transA=1>(x, w)", "float[3, 2]", W, "transposed"),
        ("y = Gemm<alpha=0.0>(x, w)", "float[2, 3]", W, "alpha is 0"),
        ("y = Conv(x, w)", "float[1, 3, 2, 2, 2, 2]", np.ones((2, 3, 1, 1, 1, 1), np.float32), "4 axes"),
        ("y = Relu(x)", "float[2, 3]", W, "not one of"),
    ],
)
def test_what_has_no_int8_form_says_why(body, x, weight, reason):
    found = linear_of(node_of(body, x, w=weight))
    assert isinstance(found, str)
    assert reason in found
