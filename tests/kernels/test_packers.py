import numpy as np
import pytest

from porting_kernels.packers import PACKERS


@pytest.mark.parametrize("name", PACKERS)
def test_unpacking_gives_what_the_stored_form_holds(name):
    scale = np.float32([[1.0, 2.0], [2**-20, 0.5]])
    stored = PACKERS[name].pack(scale)
    unpacked = PACKERS[name].unpack(stored)
    np.testing.assert_array_equal(unpacked.reshape(scale.shape), scale)
    np.testing.assert_array_equal(PACKERS[name].pack(unpacked), stored)
