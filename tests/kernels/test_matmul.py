from __future__ import annotations

import numpy as np
import pytest

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # inner products of up to 64 unit normals in two orders


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "a, b",
    [
        ((3, 64), (64, 5)),
        ((64,), (64, 5)),
        ((3, 64), (64,)),
        ((64,), (64,)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((0, 3), (3, 2)),
    ],
)
def test_matmul_is_numpys(a, b, rng, ours):
    a, b = normal(rng, *a), normal(rng, *b)
    got = ours("MatMul", a, b)[0]
    assert got.shape == np.matmul(a, b).shape
    np.testing.assert_allclose(got, np.matmul(a, b), **CLOSE)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_integer_matmul_wraps_like_numpy(dtype, rng, ours):
    info = np.iinfo(dtype)
    a = rng.integers(info.min, info.max, (3, 4), dtype=dtype)
    b = rng.integers(info.min, info.max, (4, 2), dtype=dtype)
    got = ours("MatMul", a, b)[0]
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, a @ b)


def test_half_matmul_accumulates_in_float32(rng, ours):
    a, b = normal(rng, 4, 512).astype(np.float16), normal(rng, 512, 3).astype(np.float16)
    wide = ours("MatMul", a.astype(np.float32), b.astype(np.float32))[0]
    np.testing.assert_array_equal(ours("MatMul", a, b)[0], wide.astype(np.float16))


@pytest.mark.parametrize("c", [None, (), (5,), (3, 1), (3, 5)])
@pytest.mark.parametrize("transposed", [False, True])
def test_gemm_matches_stock_runtime(c, transposed, rng, ours, stock):
    a, b = normal(rng, *((64, 3) if transposed else (3, 64))), normal(rng, *((5, 64) if transposed else (64, 5)))
    operands = [a, b] + ([] if c is None else [np.asarray(normal(rng, *c), np.float32)])
    attributes = {"alpha": 0.5, "beta": -2.0, "transA": int(transposed), "transB": int(transposed)}
    got, want = (run("Gemm", *operands, **attributes)[0] for run in (ours, stock))
    np.testing.assert_allclose(got, want, **CLOSE)


def test_gemm_before_opset_7_announces_broadcasting(rng, ours):
    a, b, c = normal(rng, 2, 3), normal(rng, 3, 4), normal(rng, 4)
    np.testing.assert_allclose(ours("Gemm", a, b, c, opset=6, broadcast=1)[0], a @ b + c, **CLOSE)


def test_gemm_of_integers(rng, ours):
    a, b, c = (rng.integers(-9, 9, (3, 3), dtype=np.int32) for _ in range(3))
    np.testing.assert_array_equal(ours("Gemm", a, b, c, transB=1)[0], a @ b.T + c)


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "ij->ji", "...ii->...i", "bij, bjk", "i,j->ij", "Ab,bC->AC"])
def test_einsum_is_numpys(equation, rng, ours):
    inputs = [normal(rng, *[3] * len(term.strip().replace("...", "x"))) for term in equation.split("->")[0].split(",")]
    np.testing.assert_allclose(ours("Einsum", *inputs, equation=equation)[0], np.einsum(equation, *inputs), **CLOSE)


@pytest.mark.parametrize("inner", [7, 1024])  # 1024 * 255 * 255 exceeds 2**24: the float64 path
def test_matmul_integer_is_exact(inner, rng, ours, stock):
    a = rng.integers(0, 256, (2, 3, inner), dtype=np.uint8)
    b = rng.integers(-128, 128, (inner, 4), dtype=np.int8)
    zero_points = np.asarray(200, np.uint8), np.asarray(-5, np.int8)
    got, want = (run("MatMulInteger", a, b, *zero_points, opset=10)[0] for run in (ours, stock))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_matmul_integer_zero_points_a_row_and_a_column(rng, ours):
    a = rng.integers(0, 256, (3, 5), dtype=np.uint8)
    b = rng.integers(0, 256, (5, 4), dtype=np.uint8)
    rows, columns = rng.integers(0, 256, 3, dtype=np.uint8), rng.integers(0, 256, 4, dtype=np.uint8)
    want = (a.astype(int) - rows[:, None]) @ (b.astype(int) - columns.astype(int))
    np.testing.assert_array_equal(ours("MatMulInteger", a, b, rows, columns, opset=10)[0], want)


def test_determinant(ours):
    x = np.array([[[1, 2], [3, 4]], [[2, 0], [0, 3]]], np.float32)
    np.testing.assert_allclose(ours("Det", x)[0], [-2, 6], rtol=1e-6)
