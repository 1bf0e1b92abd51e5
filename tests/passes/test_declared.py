from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from porting_passes.declared import DeclaredTensor, UnboundWeightError, bind_declared, declare_weights
from porting_passes.stored import is_stored


class Memory(ir.Tensor):
    """A stored tensor in memory."""

    def converted(self, dtype, name):
        return Memory(self.numpy().astype(dtype.numpy()), name=name)

    def transposed(self):
        return Memory(np.ascontiguousarray(self.numpy().swapaxes(-1, -2)))

    def reshaped(self, shape):
        return Memory(self.numpy().reshape(shape))

    @staticmethod
    def concatenated(views, axis=0):
        return Memory(np.concatenate([view.numpy() for view in views], axis))


WEIGHTS = {name: np.random.default_rng(i).standard_normal((2, 3)).astype(np.float32) for i, name in enumerate("ab")}


def look_up(name: str) -> Memory:
    return Memory(WEIGHTS[name], name=name)


def declared(name: str) -> DeclaredTensor:
    return DeclaredTensor(ir.DataType.FLOAT, (2, 3), lambda find: find(name), name)


def test_it_is_a_stored_tensor_of_onnx():
    tensor = declared("a")
    assert isinstance(tensor, ir.TensorProtocol)
    assert is_stored(tensor)
    assert (tensor.size, tensor.nbytes, list(tensor.shape)) == (6, 24, [2, 3])


def test_what_was_done_to_it_is_done_to_the_weight():
    made = DeclaredTensor.concatenated([declared("a"), declared("b")], 0).transposed()
    made = made.converted(ir.DataType.FLOAT16, "joined")
    assert (list(made.shape), made.dtype, made.name) == ([3, 4], ir.DataType.FLOAT16, "joined")
    bound = made.bound(look_up)
    np.testing.assert_array_equal(bound.numpy(), np.concatenate(list(WEIGHTS.values())).T.astype(np.float16))
    assert bound.name == "joined"


def test_other_leading_axes():
    made = DeclaredTensor.concatenated([declared("a"), declared("b")], 0).reshaped([2, 2, 3])
    assert list(made.shape) == [2, 2, 3]
    np.testing.assert_array_equal(made.bound(look_up).numpy(), np.stack(list(WEIGHTS.values())))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_shapes_add_up_along_the_axis(axis):
    made = DeclaredTensor.concatenated([declared("a"), declared("b")], axis)
    assert list(made.shape) == list(made.bound(look_up).numpy().shape)


def test_reading_it_says_what_is_missing():
    for read in (lambda t: t.numpy(), lambda t: t.tobytes(), np.asarray):
        with pytest.raises(UnboundWeightError, match="the weight a has no contents"):
            read(declared("a"))


def test_a_model_takes_weights_after_it_was_declared():
    value = ir.Value(name="a", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 3]))
    node = ir.node("Neg", [value])
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    declare_weights(model)
    assert isinstance(value.const_value, DeclaredTensor)
    bind_declared(model, look_up)
    np.testing.assert_array_equal(value.const_value.numpy(), WEIGHTS["a"])
