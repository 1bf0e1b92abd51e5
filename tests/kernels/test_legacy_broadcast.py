from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("shape, axis", [((3, 4), 1), ((2,), 0), ((4,), -2), ((4, 5), None)])
def test_second_operand_starts_at_an_axis(shape, axis, rng, ours):
    a, b = rng.standard_normal((2, 3, 4, 5)).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
    start = 4 - len(shape) if axis is None else axis % 4
    aligned = b.reshape((1,) * start + shape + (1,) * (4 - start - len(shape)))
    attributes = {} if axis is None else {"axis": axis}
    np.testing.assert_array_equal(ours("Add", a, b, opset=6, broadcast=1, **attributes)[0], a + aligned)


def test_without_the_request_shapes_are_equal(rng, ours):
    a = rng.standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(ours("Greater", a, a * 2, opset=1)[0], a > a * 2)
