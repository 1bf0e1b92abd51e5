from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import PortingError

X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 2, 3), (2, 3, 1, 0)])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.uint16])
def test_matches_numpy(pads, mode, dtype, ours):
    x = X.astype(dtype)
    if mode == "constant":
        found = ours("Pad", x, ints(*pads), np.array(7, dtype), mode=mode)[0]
        expected = np.pad(x, [(pads[0], pads[2]), (pads[1], pads[3])], constant_values=7)
    else:
        found = ours("Pad", x, ints(*pads), mode=mode)[0]
        expected = np.pad(x, [(pads[0], pads[2]), (pads[1], pads[3])], mode=mode)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_negative_pads_crop(mode, ours, stock):
    operands = X, ints(-1, 2, 0, -1)
    np.testing.assert_array_equal(
        ours("Pad", *operands, mode="constant")[0], stock("Pad", *operands, mode="constant")[0]
    )
    assert ours("Pad", X, ints(-1, 1, 0, -1), mode=mode)[0].shape == (2, 4)


def test_named_axes_and_attributes_of_old_opsets(ours):
    np.testing.assert_array_equal(ours("Pad", X, ints(1, 2), None, ints(-1))[0], np.pad(X, [(0, 0), (1, 2)]))
    old = ours("Pad", X, opset=10, pads=[0, 1, 0, 1], value=5.0)[0]
    np.testing.assert_array_equal(old, np.pad(X, [(0, 0), (1, 1)], constant_values=5))


def test_bad_pads_and_modes_are_refused(ours):
    with pytest.raises(PortingError, match="two numbers"):
        ours("Pad", X, ints(1, 2))
    with pytest.raises(PortingError, match="mode"):
        ours("Pad", X, ints(0, 1, 0, 1), mode="mirror")
