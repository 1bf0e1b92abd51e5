from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.builder import Builder, BuildError


def value(*shape: int | str | None, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(shape))


def kinds(builder: Builder) -> list[str]:
    return [node.op_type for node in builder.nodes]


def test_outputs_are_typed_and_keep_symbols() -> None:
    b = Builder(17)
    y = b.reshape(b.Mul(value("n", 3, 4), b.scalar(2, value())), [0, -1])
    assert y.dtype == ir.DataType.FLOAT
    assert list(y.shape) == ["n", 12]


@pytest.mark.parametrize(
    ("opset", "op_type", "form"),
    [(11, "ReduceSum", 1), (13, "ReduceSum", 2), (17, "ReduceMean", 1), (18, "ReduceMean", 2), (18, "ReduceMax", 2)],
)
def test_axes_are_an_attribute_or_an_input(opset, op_type, form) -> None:
    b = Builder(opset)
    y = b.reduce(op_type, value(2, 3), [1], keepdims=False)
    assert len(b.nodes[0].inputs) == form
    assert ("axes" in b.nodes[0].attributes) == (form == 1)
    assert list(y.shape) == [2]


@pytest.mark.parametrize(("opset", "form"), [(11, 1), (13, 2)])
def test_squeeze_and_unsqueeze_and_split_change_form_at_13(opset, form) -> None:
    b = Builder(opset)
    y = b.squeeze(b.unsqueeze(value(2, 3), [0]), [0])
    parts = b.split(y, [1, 2], 1)
    assert [len(node.inputs) for node in b.nodes] == [form] * 3
    assert [list(part.shape) for part in parts] == [[2, 1], [2, 2]]


def test_softmax_below_opset_13_goes_through_the_last_axis() -> None:
    old, new, last = Builder(12), Builder(13), Builder(12)
    assert list(old.softmax(value(2, 3, 4), 1).shape) == [2, 3, 4]
    new.softmax(value(2, 3, 4), 1)
    last.softmax(value(2, 3, 4), -1)
    assert kinds(old) == ["Transpose", "Softmax", "Transpose"]
    assert kinds(new) == kinds(last) == ["Softmax"]


@pytest.mark.parametrize(
    ("opset", "emit", "why"),
    [
        (17, lambda b: b.Gelu(value(2)), "Gelu does not exist at opset 17"),
        (24, lambda b: b.Upsample(value(2), value(1)), "Upsample does not exist"),
        (17, lambda b: b.ReduceMean(value(2), b.ints([0])), "takes 1 to 1 inputs, not 2"),
        (18, lambda b: b.ReduceMean(value(2), axes=[0]), "has no attribute axes"),
        (13, lambda b: b.Transpose(value(2), permutation=[0]), "has no attribute permutation"),
        (13, lambda b: b.Concat(value(2)), "needs attribute axis"),
        (11, lambda b: b.Max(value(2, dtype=ir.DataType.INT32), value(2, dtype=ir.DataType.INT32)), "int32"),
        (11, lambda b: b.Mul(value(2, dtype=ir.DataType.BFLOAT16), value(2, dtype=ir.DataType.BFLOAT16)), "bfloat16"),
        (13, lambda b: b.scalar(1, ir.Value(name="x")), "dtype of 'x' is unknown"),
    ],
)
def test_what_the_opset_does_not_have_is_refused(opset, emit, why) -> None:
    with pytest.raises(BuildError, match=why):
        emit(Builder(opset))


def test_a_refused_node_is_no_consumer() -> None:
    x = value(2)
    with pytest.raises(BuildError):
        Builder(17).Gelu(x)
    assert not x.uses()


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.INT32])
def test_scalars_take_the_dtype_of_their_neighbour(dtype) -> None:
    scalar = Builder(13).scalar(3, value(2, dtype=dtype))
    assert scalar.dtype == dtype
    assert scalar.const_value.numpy().shape == ()
    assert float(scalar.const_value.numpy()) == 3.0


def test_derived_constants_are_made_on_first_read() -> None:
    reads = []

    def change(array: np.ndarray) -> np.ndarray:
        reads.append(array.shape)
        return array.T

    derived = Builder(13).derived(ir.tensor(np.arange(6.0).reshape(2, 3)), [3, 2], change)
    assert reads == []
    assert derived.const_value is not None
    np.testing.assert_array_equal(derived.const_value.numpy(), np.arange(6.0).reshape(2, 3).T)
    assert reads == [(2, 3)]


def test_cast_and_transpose_that_change_nothing_are_left_out() -> None:
    b, x = Builder(13), value(2, 3)
    assert b.cast(x, ir.DataType.FLOAT) is x
    assert b.transpose(x, [0, 1]) is x
    assert kinds(b) == []


@pytest.mark.parametrize(
    ("dims", "target", "fits"),
    [
        ((2, 0, 4), [0, 4], False),  # meant as [0, 4], read as [2, 4]
        ((0, 3), [1, 0, 3], False),
        ((0, 3), [0, 3, 1], True),
        ((2, 0, 4), [-1, 4], False),  # no product of 0 says what -1 is
        ((2, 3), [0, 0, 0], False),
        ((2, 3), [0, 3, 1], True),
        (("n", 3), [0, 3, 1], True),
        (("n", 4), [-1, 2, 2], True),
    ],
)
def test_a_reshape_target_must_fit(dims, target, fits) -> None:
    b = Builder(17)
    if fits:
        b.reshape(value(*dims), target)
        return
    with pytest.raises(BuildError, match="Reshape"):
        b.reshape(value(*dims), target)
