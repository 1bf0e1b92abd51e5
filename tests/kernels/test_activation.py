from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from porting_kernels.errors import PortingError

# name: (opset, attributes); each compared with stock onnxruntime, with and without attributes.
CASES = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.3},
    "ThresholdedRelu": {"alpha": 0.7},
    "Sigmoid": {},
    "HardSigmoid": {"alpha": 0.4, "beta": 0.3},
    "HardSwish": {},
    "Elu": {"alpha": 1.7},
    "Selu": {"alpha": 1.5, "gamma": 1.1},
    "Celu": {"alpha": 0.8},
    "Softplus": {},
    "Softsign": {},
    "Gelu": {"approximate": "tanh"},
    "Mish": {},
    "Shrink": {"bias": 0.25, "lambd": 0.6},
}
X = np.array([-math.inf, -1e4, -90, -3, -0.5, -1e-3, -0.0, 0, 1e-3, 0.5, 0.7, 1, 3, 90, 1e4], np.float32)


@pytest.mark.parametrize("attributes", ["defaults", "given"])
@pytest.mark.parametrize("name", CASES)
def test_matches_stock_runtime(name, attributes, ours, stock):
    given = CASES[name] if attributes == "given" else {}
    x = X[1:] if name in ("Mish", "Softsign", "Gelu", "HardSwish") else X  # inf * 0 and inf / inf are not defined alike
    # Two libraries' exp and tanh: a few ULPs each. torch's vectorized erf is good to 4e-7, which 1 + erf(-2) shows.
    atol = 1e-6 if name == "Gelu" else 2e-7
    np.testing.assert_allclose(ours(name, x, **given)[0], stock(name, x, **given)[0], rtol=3e-6, atol=atol)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_swish_matches_the_reference(alpha, ours, reference):
    x = X[1:]
    found, expected = (run("Swish", x, opset=24, alpha=alpha)[0] for run in (ours, reference))
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-7)


def test_prelu_broadcasts_its_slope(rng, ours, stock):
    x, slope = rng.standard_normal((2, 3, 4)).astype(np.float32), rng.standard_normal((3, 1)).astype(np.float32)
    np.testing.assert_array_equal(ours("PRelu", x, slope)[0], stock("PRelu", x, slope)[0])


@pytest.mark.parametrize("name", ["Gelu", "Elu", "Selu", "Celu", "Softplus", "Mish", "HardSigmoid", "Softsign"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_the_rounded_float32_result(name, dtype, rng, ours):
    x = rng.uniform(-4, 4, 200).astype(dtype)
    np.testing.assert_array_equal(ours(name, x)[0], ours(name, x.astype(np.float32))[0].astype(dtype))


@pytest.mark.parametrize("low, high", [(None, None), (-1, None), (None, 1), (-1, 1), (2, -2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int64])
def test_clip_matches_numpy(low, high, dtype, ours):
    x = np.array([-5, -1, 0, 1, 5], dtype)
    limits = [None if limit is None else np.array(limit, dtype) for limit in (low, high)]
    expected = x if low is None else np.maximum(x, limits[0])
    expected = expected if high is None else np.minimum(expected, limits[1])
    np.testing.assert_array_equal(ours("Clip", x, *limits)[0], expected)


def test_clip_keeps_nan_and_handles_wide_unsigned(ours):
    nan = ours("Clip", np.array([math.nan], np.float32), np.array(0, np.float32), np.array(1, np.float32))[0]
    assert math.isnan(nan[0])
    x, low, high = np.array([0, 2**63, 2**64 - 1], np.uint64), np.array(1, np.uint64), np.array(2**63, np.uint64)
    np.testing.assert_array_equal(ours("Clip", x, low, high)[0], np.array([1, 2**63, 2**63], np.uint64))


def test_clip_of_opset_6_takes_attributes(ours):
    np.testing.assert_array_equal(
        ours("Clip", np.array([-3, 0, 9], np.float32), opset=6, min=-1.0, max=6.0)[0], [-1, 0, 6]
    )


def test_a_limit_that_is_no_scalar_is_refused(ours):
    with pytest.raises(PortingError, match="scalar"):
        ours("Clip", np.zeros(3, np.float32), np.zeros(2, np.float32))
