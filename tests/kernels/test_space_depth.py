from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import PortingError, ShapeError


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_depth_to_space_matches_stock_and_inverts(mode, block, rng, ours, stock):
    x = rng.standard_normal((2, 2 * block * block, 3, 2)).astype(np.float32)
    attributes = {"blocksize": block, "mode": mode}
    wide = ours("DepthToSpace", x, **attributes)[0]
    np.testing.assert_array_equal(wide, stock("DepthToSpace", x, **attributes)[0])
    np.testing.assert_array_equal(ours("SpaceToDepth", wide, opset=28, **attributes)[0], x)


def test_what_does_not_divide_is_refused(ours):
    with pytest.raises(ShapeError, match="channels"):
        ours("DepthToSpace", np.zeros((1, 6, 2, 2), np.float32), blocksize=2)
    with pytest.raises(ShapeError, match="image"):
        ours("SpaceToDepth", np.zeros((1, 1, 3, 2), np.float32), blocksize=2)
    with pytest.raises(PortingError, match="mode"):
        ours("DepthToSpace", np.zeros((1, 4, 2, 2), np.float32), blocksize=2, mode="RCD")
