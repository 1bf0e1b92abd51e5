from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 2, -7])
@pytest.mark.parametrize("axes", [(), (4,), (2, 3), (2, 1, 2)])
def test_losses_match_onnx_reference(reduction, weighted, ignore_index, axes, rng, ours, reference):
    scores = rng.standard_normal((3, 5, *axes)).astype(np.float32)
    target = rng.integers(0, 5, (3, *axes))
    attributes = {"reduction": reduction}
    if ignore_index is not None:
        attributes["ignore_index"] = ignore_index
        target.flat[0] = ignore_index
    operands = [scores, target] + ([rng.random(5, np.float32) + 0.5] if weighted else [])
    got, want = (run("NegativeLogLikelihoodLoss", *operands, **attributes)[0] for run in (ours, reference))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    got, want = (run("SoftmaxCrossEntropyLoss", *operands, outputs=2, **attributes) for run in (ours, reference))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


def test_int32_targets(ours):
    log_prob = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))
    got = ours("NegativeLogLikelihoodLoss", log_prob, np.array([1, 0], np.int32), reduction="none")[0]
    np.testing.assert_allclose(got, -np.log([0.75, 0.5]), rtol=1e-6)
