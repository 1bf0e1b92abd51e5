from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto


def test_a_seed_decides_the_values_and_no_seed_follows_torchs(ours):
    first, again = (ours("RandomNormal", shape=[64], seed=1.5)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, ours("RandomNormal", shape=[64], seed=1.0)[0])
    assert not np.array_equal(ours("RandomUniform", shape=[64])[0], ours("RandomUniform", shape=[64])[0])
    torch.manual_seed(3)
    loose = ours("RandomUniform", shape=[64])[0]
    torch.manual_seed(3)
    np.testing.assert_array_equal(ours("RandomUniform", shape=[64])[0], loose)


def test_moments(ours):
    # 40,000 draws: the standard error of a mean of unit variance is 0.005; five of them are allowed.
    normal = ours("RandomNormal", shape=[200, 200], mean=3.0, scale=2.0, seed=7.0)[0]
    assert abs(normal.mean() - 3) < 0.05
    assert abs(normal.std() - 2) < 0.05
    uniform = ours("RandomUniform", shape=[200, 200], low=-2.0, high=4.0, seed=7.0)[0]
    assert uniform.min() >= -2
    assert uniform.max() < 4
    assert abs(uniform.mean() - 1) < 0.05


def test_like_forms_take_shape_and_dtype(ours):
    x = np.zeros((2, 3), np.float16)
    for op_type in ("RandomNormalLike", "RandomUniformLike"):
        got = ours(op_type, x, seed=1.0)[0]
        assert (got.shape, got.dtype) == ((2, 3), np.float16)
        assert ours(op_type, x, seed=1.0, dtype=TensorProto.DOUBLE)[0].dtype == np.float64


def test_bernoulli_follows_its_probabilities(ours):
    x = np.repeat(np.array([0, 0.25, 1], np.float32), 10000)
    got = ours("Bernoulli", x, seed=5.0, dtype=TensorProto.INT32)[0].reshape(3, -1)
    assert got.dtype == np.int32
    assert got[0].sum() == 0
    assert got[2].sum() == 10000
    assert abs(got[1].mean() - 0.25) < 0.025  # five standard errors


def test_multinomial_follows_log_probabilities(ours):
    x = np.log(np.array([[0.2, 0.3, 0.5], [1e-30, 1, 1e-30]], np.float32))
    got = ours("Multinomial", x, sample_size=10000, seed=2.0, dtype=TensorProto.INT64)[0]
    assert got.shape == (2, 10000)
    np.testing.assert_allclose(np.bincount(got[0]) / 10000, [0.2, 0.3, 0.5], atol=0.025)
    assert (got[1] == 1).all()
