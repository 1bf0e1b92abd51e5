from __future__ import annotations

import onnx_ir as ir

from porting_passes.cost import NODE, elements, node_cost


def value(*shape: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(type=ir.TensorType(dtype), shape=ir.Shape(shape))


def node(op_type: str, *inputs: ir.Value, output: ir.Value) -> ir.Node:
    return ir.Node("", op_type, inputs, outputs=[output])


def test_bytes_of_operands_and_the_launch() -> None:
    add = node("Add", value(2, 3), value(3), output=value(2, 3))
    assert node_cost(add, {}) == NODE + 4 * (6 + 3 + 6)
    half = node("Cast", value(8), output=value(8, dtype=ir.DataType.FLOAT16))
    assert node_cost(half, {}) == NODE + 8 * 4 + 8 * 2


def test_a_symbol_counts_with_its_greatest_size() -> None:
    assert elements(value("n", 3), {"n": (1, 8)}) == 24
    relu = node("Relu", value("n"), output=value("n"))
    assert node_cost(relu, {"n": (1, 100)}) - node_cost(relu, {"n": (1, 10)}) == 90 * 8


def test_views_cost_their_launch_only() -> None:
    assert node_cost(node("Reshape", value(1000, 1000), value(1), output=value(1000000)), {}) == NODE


def test_products_cost_their_multiplications() -> None:
    small = node("MatMul", value(4, 8), value(8, 4), output=value(4, 4))
    assert node_cost(small, {}) == NODE + 4 * (32 + 32 + 16) + 16 * 8 / 8
    conv = node("Conv", value(1, 2, 5, 5), value(3, 2, 3, 3), output=value(1, 3, 3, 3))
    assert node_cost(conv, {}) == NODE + 4 * (50 + 54 + 27) + 27 * 18 / 8


def test_a_transcendental_costs_more_than_a_sum() -> None:
    assert node_cost(node("Exp", value(100), output=value(100)), {}) > node_cost(
        node("Neg", value(100), output=value(100)), {}
    )
