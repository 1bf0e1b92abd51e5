from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import ShapeError

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # sums of up to 16 unit normals


def pairs(values):
    return np.stack([values.real, values.imag], -1).astype(np.float32)


@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize("length", [None, 5, 12])
@pytest.mark.parametrize("onesided", [0, 1])
def test_real_dft_is_numpys(axis, length, onesided, rng, ours):
    x = rng.standard_normal((2, 8, 9, 1)).astype(np.float32)
    operands = x, None if length is None else np.array(length), np.array(axis)
    got = ours("DFT", *operands, onesided=onesided, opset=20)[0]
    transform = np.fft.rfft if onesided else np.fft.fft
    np.testing.assert_allclose(got, pairs(transform(x[..., 0], length, axis % 4)), **CLOSE)
    older = ours("DFT", *operands[:2], axis=axis, onesided=onesided, opset=17)[0]
    np.testing.assert_array_equal(older, got)


def test_inverse_and_one_sided_inverse_give_the_signal_back(rng, ours):
    x = rng.standard_normal((2, 9, 2)).astype(np.float32)
    np.testing.assert_allclose(ours("DFT", ours("DFT", x, opset=20)[0], inverse=1, opset=20)[0], x, **CLOSE)
    for length in (8, 9):
        real = x[:, :length, :1]
        half = ours("DFT", real, onesided=1, opset=20)[0]
        back = ours("DFT", half, np.array(length), inverse=1, onesided=1, opset=20)[0]
        np.testing.assert_allclose(back, real, **CLOSE)


def test_the_axis_of_pairs_is_refused(ours):
    with pytest.raises(ShapeError):
        ours("DFT", np.zeros((1, 4, 2), np.float32), None, np.array(-1), opset=20)
    with pytest.raises(ShapeError):
        ours("DFT", np.zeros((1, 4, 3), np.float32), opset=20)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [False, True])
def test_stft_matches_stock_runtime(onesided, windowed, rng, ours, stock):
    x = rng.standard_normal((2, 50, 1)).astype(np.float32)
    window = np.hanning(16).astype(np.float32) if windowed else None
    operands = x, np.array(7), window, np.array(16)
    got, want = (run("STFT", *operands, onesided=onesided, opset=17)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)


def test_stft_of_a_complex_signal(rng, ours):
    x = rng.standard_normal((1, 20, 2)).astype(np.float32)
    got = ours("STFT", x, np.array(4), np.ones(8, np.float32), onesided=0, opset=17)[0]
    signal = x[..., 0] + 1j * x[..., 1]
    frames = np.stack([signal[:, s : s + 8] for s in range(0, 13, 4)], 1)
    np.testing.assert_allclose(got, pairs(np.fft.fft(frames)), **CLOSE)
    with pytest.raises(ShapeError):
        ours("STFT", x, np.array(4), np.ones(8, np.float32), np.array(9), opset=17)


@pytest.mark.parametrize("bins, length, rate, low, high", [(8, 16, 8192, 0.0, 4096.0), (40, 512, 16000, 20.0, 7600.0)])
def test_mel_weights_match_onnx_reference(bins, length, rate, low, high, ours, reference):
    scalars = [np.array(v) for v in (bins, length, rate)] + [np.array(v, np.float32) for v in (low, high)]
    got, want = (run("MelWeightMatrix", *scalars, opset=17)[0] for run in (ours, reference))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
