from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("name", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("size", [2, 10, 11])
def test_matches_the_reference(name, periodic, size, ours, reference):
    operand = np.array(size, np.int32)
    found, expected = (run(name, operand, periodic=periodic)[0] for run in (ours, reference))
    # The reference rounds each of its steps to float32.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size, shape", [(0, (0,)), (1, (1,))])
def test_sizes_without_a_period(size, shape, ours):
    found = ours("HannWindow", np.array(size), periodic=0, output_datatype=11)[0]
    assert found.shape == shape
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
