"""Thresholds from a histogram against the same rules applied to the values themselves."""

import itertools

import numpy as np
import pytest
import torch

from porting.quantization.thresholds import METHODS, PERCENTILE, entropy, mean_square_error, percentile
from porting_kernels.dyadic_histogram import BINS, DyadicHistogram, empty, reference


def gaussian(rng):
    return rng.standard_normal(200_000)


def skewed(rng):
    return np.maximum(rng.standard_normal(200_000), -0.3) * 3


def rectified(rng):
    return np.maximum(rng.standard_normal(200_000), 0)


def outliers(rng):
    x = rng.standard_normal(200_000)
    x[:5] = [40, -35, 38, 20, 30]
    return x


DATA = {f.__name__: f for f in (gaussian, skewed, rectified, outliers)}


def sample(name: str) -> tuple[np.ndarray, DyadicHistogram]:
    x = DATA[name](np.random.default_rng(4)).astype(np.float32)
    return x, reference(torch.from_numpy(x))


@pytest.mark.parametrize("name", DATA)
def test_percentile_equals_numpy_to_a_bin(name):
    x, histogram = sample(name)
    found = percentile(histogram, "symmetric")
    assert max(-found.min, found.max) == pytest.approx(np.quantile(np.abs(x), PERCENTILE), abs=histogram.width)
    found = percentile(histogram, "asymmetric")
    tail = (1 + PERCENTILE) / 2
    assert found.max == pytest.approx(max(np.quantile(x, tail), 0), abs=2 * histogram.width)
    assert found.min == pytest.approx(min(np.quantile(x, 1 - tail), 0), abs=2 * histogram.width)


def square_error(x: np.ndarray, low: float, high: float, symmetry: str) -> float:
    if symmetry == "symmetric":
        step, least, most = max(-low, high) / 127, -127, 127
    else:
        step = (high - low) / 255
        least = round(low / step)
        most = least + 255
    return float(np.mean((np.clip(np.rint(x / step), least, most) * step - x.astype(np.float64)) ** 2))


@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("name", DATA)
def test_square_error_is_close_to_the_best_on_the_values(name, symmetry):
    x, histogram = sample(name)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if symmetry == "symmetric":
        low, high = -max(-low, high), max(-low, high)
    best = min(square_error(x, low * f, high * f, symmetry) for f in np.arange(0.05, 1.001, 0.01))
    found = mean_square_error(histogram, symmetry)
    # Bins are wider than a step only far inside; 10 % covers their centres standing for their values.
    assert square_error(x, found.min, found.max, symmetry) <= best * 1.1


def divergence_of(bins: np.ndarray, end: int) -> float:
    """One candidate, written out: the clipped distribution against its 128-level form, level by level."""
    p = bins[:end].astype(np.float64)
    q = np.zeros(end)
    edges = [int(e) for e in np.linspace(0, end, 129)]
    for start, stop in itertools.pairwise(edges):
        filled = [i for i in range(start, stop) if p[i] > 0]
        for i in filled:
            q[i] = p[start:stop].sum() / len(filled)
    p[-1] += bins[end:].sum()
    p, q = p / p.sum(), q / q.sum()
    return sum(p[i] * np.log(p[i] / max(q[i], 1e-12)) for i in range(end) if p[i] > 0)


@pytest.mark.parametrize("name", DATA)
def test_entropy_equals_the_rule_written_out(name):
    x, histogram = sample(name)
    magnitudes = np.abs(x[x != 0])
    bins = np.histogram(magnitudes, np.arange(BINS + 1) * histogram.width)[0]
    used = int(np.flatnonzero(bins)[-1]) + 1
    candidates = [*range(128, used, 16), used]
    limit = min(candidates, key=lambda end: divergence_of(bins, end)) * histogram.width
    found = entropy(histogram, "symmetric")
    assert (found.min, found.max) == (max(-limit, min(histogram.low, 0)), min(limit, max(histogram.high, 0)))


@pytest.mark.parametrize("name", METHODS)
def test_outliers_are_clipped(name):
    _, histogram = sample("outliers")
    found = METHODS[name](histogram, "symmetric")
    # Square error gives up five values of 200,000 only in part.
    assert 3 < found.max < (30 if name == "mse" else 20) < histogram.high


@pytest.mark.parametrize("symmetry", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("values", [[], [0.0, 0.0], [5.0], [-5.0], [1e-42, -1e-42], [3e38, -3e38, 1.0]])
def test_odd_data_have_a_range_inside_the_extremes(name, symmetry, values):
    histogram = reference(torch.tensor(values)) if values else empty()
    found = METHODS[name](histogram, symmetry)
    assert min(0.0, histogram.low) <= found.min <= 0 <= found.max <= max(0.0, histogram.high)
    if len(values) == 1 and values[0]:
        assert abs(found.min + found.max) == pytest.approx(5.0, rel=0.01)
