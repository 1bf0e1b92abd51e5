from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from porting_kernels import dtypes
from porting_kernels.errors import DtypeError

CODES = [code for code in onnx.TensorProto.DataType.values() if code not in (0, 8) and code <= 26]


@pytest.mark.parametrize("code", CODES, ids=lambda code: onnx.TensorProto.DataType.Name(code))
def test_names_and_numpy_types_are_those_of_onnx(code):
    row = dtypes.by_code(code)
    assert row.name == onnx.TensorProto.DataType.Name(code)
    assert row.numpy == onnx.helper.tensor_dtype_to_np_dtype(code)


@pytest.mark.parametrize("shape", [(), (4,), (0, 2), (2, 2)])
@pytest.mark.parametrize("code", CODES, ids=lambda code: onnx.TensorProto.DataType.Name(code))
def test_there_and_back(code, shape):
    row = dtypes.by_code(code)
    array = np.resize(np.array([0, 1, 1, 0]), shape).astype(row.numpy)
    tensor = dtypes.to_torch(array)
    assert tensor.dtype == row.torch
    assert tensor.shape == shape
    back = dtypes.to_numpy(tensor, code)
    assert back.dtype == row.numpy
    assert back.tobytes() == array.tobytes()


def test_memory_is_shared_and_read_only_arrays_are_taken():
    array = np.arange(4, dtype=np.uint16)
    tensor = dtypes.to_torch(array)
    array[0] = 9
    assert tensor.tolist() == [9, 1, 2, 3]
    array.flags.writeable = False
    assert dtypes.to_torch(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3).T, np.arange(6)[::-1], np.arange(3, dtype=">i4")],
    ids=["view", "reversed", "big"],
)
def test_memory_layouts(array):
    np.testing.assert_array_equal(dtypes.to_torch(array).numpy(), array)


@pytest.mark.parametrize(
    "convert, value",
    [(dtypes.by_code, 8), (dtypes.by_torch, torch.qint8), (dtypes.to_torch, np.array(["a"], object))],
    ids=["string code", "torch only", "objects"],
)
def test_what_has_no_element_type_is_refused(convert, value):
    with pytest.raises(DtypeError):
        convert(value)


def test_operands_are_described_for_people():
    assert dtypes.describe(torch.zeros(2, 3)) == "float32[2,3]"
    assert dtypes.describe([1, 2]) == "sequence(2)"
    assert dtypes.describe(None) == "absent"
