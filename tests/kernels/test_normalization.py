from __future__ import annotations

import numpy as np
import pytest
import torch

from porting_kernels import registry
from porting_kernels.errors import ShapeError
from porting_kernels.numerics import REF64

# Means and variances of some hundred unit normals in two orders of summation.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 4, 5, 6), (2, 2, 3, 2, 4)])
def test_instance_normalization_matches_stock_runtime(shape, rng, ours, stock):
    operands = normal(rng, *shape), normal(rng, shape[1]), normal(rng, shape[1])
    got, want = (run("InstanceNormalization", *operands, epsilon=1e-3)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)


def test_instance_normalization_of_single_elements_is_the_bias(ours):
    x, scale, b = np.full((1, 2, 1), 9, np.float32), np.ones(2, np.float32), np.array([1, -2], np.float32)
    # x and the mean cancel after being scaled by 1 / sqrt(epsilon): a float32 step there is 2.4e-4.
    np.testing.assert_allclose(ours("InstanceNormalization", x, scale, b)[0], [[[1], [-2]]], atol=2.4e-4)


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("outputs", [1, 3])
def test_layer_normalization_matches_stock_runtime(axis, outputs, rng, ours, stock):
    x = normal(rng, 3, 4, 5) * 3 + 1
    scale, b = normal(rng, *x.shape[axis:]), normal(rng, *x.shape[axis:])
    got, want = (run("LayerNormalization", x, scale, b, outputs=outputs, axis=axis, opset=17) for run in (ours, stock))
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, **CLOSE)


def test_layer_normalization_broadcasts_a_smaller_scale(rng, ours, reference):
    x, scale, b = normal(rng, 2, 4, 5), normal(rng, 5), normal(rng, 1)
    got, want = (run("LayerNormalization", x, scale, b, axis=1, opset=17)[0] for run in (ours, reference))
    np.testing.assert_allclose(got, want, **CLOSE)


def test_half_layer_normalization_rounds_once_and_stashes_float32(rng, ours):
    x, scale, b = (normal(rng, *s).astype(np.float16) for s in ((4, 64), (64,), (64,)))
    y, mean, inverse = ours("LayerNormalization", x, scale, b, outputs=3, opset=17)
    wide = ours("LayerNormalization", *(v.astype(np.float32) for v in (x, scale, b)), opset=17)[0]
    np.testing.assert_array_equal(y, wide.astype(np.float16))
    assert mean.dtype == inverse.dtype == np.float32


def test_layer_normalization_stays_in_float64_for_the_float64_reference():
    kernel = registry.lookup("", "LayerNormalization", 17)
    context = registry.Context(version=17, outputs=3, numerics=REF64)
    x = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = kernel.function(x, torch.ones(8, dtype=torch.float64), context=context)
    assert [r.dtype for r in results] == [torch.float64] * 3
    torch.testing.assert_close(results[1], x.mean(-1, keepdim=True))


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_normalization_is_its_formula(axis, rng, ours):
    x = normal(rng, 2, 3, 8)
    scale = normal(rng, *x.shape[axis:])
    axes = tuple(range(axis % 3, 3))
    want = x / np.sqrt((x.astype(np.float64) ** 2).mean(axes, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(ours("RMSNormalization", x, scale, axis=axis, opset=23)[0], want, **CLOSE)


def test_group_normalization_scales_groups_before_and_channels_from_opset_21(rng, ours, reference):
    x = normal(rng, 2, 6, 3, 4)
    for opset, entries in ((18, 2), (21, 6)):
        operands = x, normal(rng, entries), normal(rng, entries)
        got, want = (run("GroupNormalization", *operands, num_groups=2, opset=opset)[0] for run in (ours, reference))
        np.testing.assert_allclose(got, want, **CLOSE)
    with pytest.raises(ShapeError):
        ours("GroupNormalization", x, np.ones(4, np.float32), np.ones(4, np.float32), num_groups=4, opset=18)


@pytest.mark.parametrize("size", [1, 3, 5, 15])
def test_lrn_matches_stock_runtime(size, rng, ours, stock):
    x = normal(rng, 2, 7, 3, 4) * 10
    attributes = {"size": size, "alpha": 0.02, "beta": 0.6, "bias": 2.0}
    got, want = (run("LRN", x, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_lrn_of_even_size_looks_one_channel_further_ahead(ours):
    x = np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
    got = ours("LRN", x, size=2, alpha=2.0, beta=1.0, bias=0.0)[0].flatten()
    np.testing.assert_allclose(got, [1 / 5, 2 / 13, 3 / 9], rtol=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization_matches_stock_runtime_and_leaves_zeros(p, rng, ours, stock):
    x = normal(rng, 3, 4, 5)
    got, want = (run("LpNormalization", x, axis=1, p=p, opset=13)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)
    np.testing.assert_array_equal(ours("LpNormalization", np.zeros((2, 3), np.float32), p=p)[0], 0)


def test_mean_variance_normalization_matches_stock_runtime(rng, ours, stock):
    x = normal(rng, 3, 2, 4, 5) * 4 + 2
    got, want = (run("MeanVarianceNormalization", x, opset=13)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)
