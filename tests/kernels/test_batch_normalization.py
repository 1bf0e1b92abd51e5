from __future__ import annotations

import numpy as np
import pytest


def operands(rng, shape=(4, 3, 5, 2)):
    x = rng.standard_normal(shape).astype(np.float32) * 2 + 1
    scale, b, mean = (rng.standard_normal(shape[1]).astype(np.float32) for _ in range(3))
    return x, scale, b, mean, rng.random(shape[1], np.float32) + 0.1


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (4, 3, 5, 2)])
def test_inference_matches_stock_runtime(opset, shape, rng, ours, stock):
    values = operands(rng, shape)
    got, want = (run("BatchNormalization", *values, opset=opset, epsilon=1e-3)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_training_blends_the_running_statistics(rng, ours):
    x, scale, b, mean, var = operands(rng)
    y, running_mean, running_var = ours(
        "BatchNormalization", x, scale, b, mean, var, outputs=3, opset=15, training_mode=1, momentum=0.75
    )
    wide = x.astype(np.float64)
    batch_mean, batch_var = wide.mean((0, 2, 3)), wide.var((0, 2, 3))
    column = (None, slice(None), None, None)
    want = (wide - batch_mean[column]) / np.sqrt(batch_var + 1e-5)[column] * scale[column] + b[column]
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(running_mean, 0.75 * mean + 0.25 * batch_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(running_var, 0.75 * var + 0.25 * batch_var, rtol=1e-5)


def test_before_opset_14_extra_outputs_or_is_test_ask_for_training(rng, ours):
    values = operands(rng)
    trained = ours("BatchNormalization", *values, outputs=3, opset=15, training_mode=1)
    for opset, extra in ((1, {}), (6, {"is_test": 0}), (7, {}), (9, {})):
        older = ours("BatchNormalization", *values, outputs=5, opset=opset, **extra)
        for got, want in zip(older[:3], trained, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)
        np.testing.assert_allclose(older[3], values[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    tested = ours("BatchNormalization", *values, opset=6, is_test=1)[0]
    np.testing.assert_array_equal(tested, ours("BatchNormalization", *values, opset=15)[0])


def test_statistics_an_element(rng, ours):
    x = rng.standard_normal((4, 2, 3)).astype(np.float32)
    scale, b, mean, var = (rng.random((2, 3), np.float32) + 0.5 for _ in range(4))
    got = ours("BatchNormalization", x, scale, b, mean, var, opset=7, spatial=0)[0]
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(var + 1e-5) * scale + b, rtol=1e-5, atol=1e-5)


def test_half_input_with_float32_statistics_keeps_both_dtypes(rng, ours):
    x, *rest = operands(rng)
    half = x.astype(np.float16)
    y, running_mean, _ = ours("BatchNormalization", half, *rest, outputs=3, opset=15, training_mode=1)
    assert (y.dtype, running_mean.dtype) == (np.float16, np.float32)
    wide = ours("BatchNormalization", half.astype(np.float32), *rest, opset=15)[0]
    np.testing.assert_array_equal(ours("BatchNormalization", half, *rest, opset=15)[0], wide.astype(np.float16))
