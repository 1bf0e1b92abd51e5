from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting_kernels.errors import ShapeError

X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def ints(*values):
    return np.array(values, np.int64)


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(0, 6),
    start=st.integers(-9, 9),
    end=st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63)])),
    step=st.integers(-3, 3).filter(bool),
)
def test_bounds_are_those_of_python(length, start, end, step, ours):
    x = np.arange(2 * length, dtype=np.int32).reshape(2, length)
    found = ours("Slice", x, ints(start), ints(end), ints(1), ints(step))[0]
    np.testing.assert_array_equal(found, x[:, start:end:step])


def test_several_axes_without_names_and_steps(ours, stock):
    operands = X, ints(0, 1), ints(2, -1)
    np.testing.assert_array_equal(ours("Slice", *operands)[0], stock("Slice", *operands)[0])
    np.testing.assert_array_equal(ours("Slice", X, opset=9, starts=[1], ends=[9], axes=[-1])[0], X[..., 1:])


def test_a_step_of_zero_is_refused(ours):
    with pytest.raises(ShapeError, match="step"):
        ours("Slice", X, ints(0), ints(1), ints(0), ints(0))


@pytest.mark.parametrize("axis", [None, 0, 2])
def test_compress(axis, ours):
    condition = np.array([True, False, True])
    attributes = {} if axis is None else {"axis": axis}
    np.testing.assert_array_equal(ours("Compress", X, condition, **attributes)[0], np.compress(condition, X, axis))


@pytest.mark.parametrize("time_axis, batch_axis", [(0, 1), (1, 0)])
def test_sequences_are_reversed_up_to_their_lengths(time_axis, batch_axis, ours):
    x = np.arange(12).reshape(4, 3) if time_axis == 0 else np.arange(12).reshape(3, 4)
    found = ours("ReverseSequence", x, ints(1, 4, 2), time_axis=time_axis, batch_axis=batch_axis)[0]
    rows = (x if time_axis else x.T).tolist()
    expected = np.array([row[:n][::-1] + row[n:] for row, n in zip(rows, (1, 4, 2), strict=True)])
    np.testing.assert_array_equal(found, expected if time_axis else expected.T)


@pytest.mark.parametrize("k", [-7, -1, 0, 2, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, np.uint16])
def test_triangles(k, dtype, ours):
    x = (X + 1).astype(dtype)
    np.testing.assert_array_equal(ours("Trilu", x, np.array(k), upper=1)[0], np.triu(x, k))
    np.testing.assert_array_equal(ours("Trilu", x, np.array(k), upper=0)[0], np.tril(x, k))


@pytest.mark.parametrize("shape", [(3, 2, 9), (1, 7, 2), (5, 4, 5)])
def test_centre_crop_and_pad(shape, ours, reference):
    operands = X, ints(*shape)
    np.testing.assert_array_equal(ours("CenterCropPad", *operands)[0], reference("CenterCropPad", *operands)[0])
    one = ours("CenterCropPad", X, ints(2), axes=[-1])[0]
    np.testing.assert_array_equal(one, X[..., 1:3])
