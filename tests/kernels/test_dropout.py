from __future__ import annotations

import numpy as np
import pytest

X = np.arange(1, 1001, dtype=np.float32)


@pytest.mark.parametrize("opset", [7, 10, 13])
def test_the_identity_at_inference(opset, ours):
    y, mask = ours("Dropout", X, opset=opset, outputs=2)
    np.testing.assert_array_equal(y, X)
    assert mask.all()


def test_training_mode_drops_a_share_and_scales_the_rest(ours):
    operands = X, np.array(0.25, np.float32), np.array(True)
    y, mask = ours("Dropout", *operands, outputs=2, seed=1)
    again = ours("Dropout", *operands, outputs=2, seed=1)[0]
    np.testing.assert_array_equal(y, again)
    np.testing.assert_allclose(y, np.where(mask, X / 0.75, 0), rtol=1e-6)
    assert 0.70 < mask.mean() < 0.80
