"""A kernel specialized to its constant operands gives what the kernel gives."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from porting_kernels import registry
from porting_kernels.errors import ShapeError
from porting_kernels.packed_convolution import PackedConv2d, packable

# Sums of a few hundred products of unit normals in two orders: 1e-5 is some 50 units in the last place.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
GEOMETRY = {
    "plain": ((2, 4, 9, 8), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    "pointwise": ((1, 5, 7, 7), (3, 5, 1, 1), {}),
    "depthwise_stride": ((1, 6, 9, 9), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "asymmetric": ((1, 2, 6, 5), (3, 2, 3, 3), {"pads": [0, 1, 2, 3], "dilations": [2, 1]}),
    "same_upper": ((1, 3, 7, 8), (4, 3, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "groups": ((2, 8, 5, 5), (4, 4, 3, 3), {"group": 2}),
}


def specialized(op_type, *operands, domain="", **attributes):
    """The kernel of an operator and its form for these constants (None: known only at run time)."""
    kernel = registry.lookup(domain, op_type, 22)
    return kernel.function, kernel.specialize(*operands, **attributes)


def normal(rng, *shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


@pytest.mark.parametrize("case", GEOMETRY)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_matches_the_kernel(case, bias, rng):
    x_shape, w_shape, attributes = GEOMETRY[case]
    x, w, b = normal(rng, *x_shape), normal(rng, *w_shape), normal(rng, w_shape[0]) if bias else None
    kernel, packed = specialized("Conv", None, w, None, **attributes)
    torch.testing.assert_close(packed(x, w, b), kernel(x, w, b, **attributes), **CLOSE)


def test_conv_follows_the_shape_and_the_memory_format_of_its_input(rng):
    w = normal(rng, 4, 3, 3, 3)
    kernel, packed = specialized("Conv", None, w)
    base = normal(rng, 2, 3, 8, 10)
    views = [base, base[:1], base.transpose(2, 3), base[..., ::2], base.to(memory_format=torch.channels_last), base]
    for x in views:
        torch.testing.assert_close(packed(x, w), kernel(x, w), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype, rng):
    x, w, b = normal(rng, 1, 16, 6, 6, dtype=dtype), normal(rng, 8, 16, 3, 3, dtype=dtype), normal(rng, 8, dtype=dtype)
    _, packed = specialized("Conv", None, w, b)
    exact = torch.conv2d(x.double(), w.double(), b.double())
    y = packed(x, w, b)
    assert y.dtype == dtype
    # A float32 sum that lies beside a rounding boundary may fall to its other side: one unit in the last place.
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-6).all()


def test_conv_leaves_to_the_kernel_what_it_does_not_take(rng):
    assert specialized("Conv", None, None)[1] is None
    assert specialized("Conv", None, normal(rng, 4, 3, 3))[1] is None
    w = normal(rng, 4, 3, 3, 3, dtype=torch.float64)
    assert specialized("Conv", None, w)[1] is None
    w = normal(rng, 4, 3, 3, 3)
    _, packed = specialized("Conv", None, w)
    assert packed(torch.zeros(0, 3, 8, 8), w).shape == (0, 4, 6, 6)
    with pytest.raises(ShapeError, match="channels"):
        packed(torch.zeros(1, 2, 8, 8), w)


def test_several_threads_may_share_one_packed_weight(rng):
    w = normal(rng, 8, 4, 3, 3)
    packed = PackedConv2d(w)
    inputs = [normal(rng, 1, 4, 6 + i % 3, 7) for i in range(24)]
    wrong: list[int] = []

    def work(first: int) -> None:
        for i in range(first, len(inputs), 4):
            with torch.inference_mode():
                got = packed(inputs[i])
            if not torch.allclose(got, torch.conv2d(inputs[i], w), **CLOSE):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("case", GEOMETRY)
@pytest.mark.parametrize("zero_point", [0, -5])
def test_integer_conv_is_exact(case, zero_point, rng):
    x_shape, w_shape, attributes = GEOMETRY[case]
    x, w = (torch.from_numpy(rng.integers(-128, 128, shape).astype(np.int8)) for shape in (x_shape, w_shape))
    bias = torch.from_numpy(rng.integers(-(2**20), 2**20, w_shape[0]).astype(np.int32))
    kernel, packed = specialized("IntegerConv", None, w, bias, domain="porting", x_zero_point=zero_point, **attributes)
    want = kernel(x, w, bias, x_zero_point=zero_point, **attributes)
    assert torch.equal(packed(x, w, bias), want)


def test_integer_conv_is_exact_where_float32_needs_the_channels_split():
    x = torch.full((1, 512, 5, 5), -128, dtype=torch.int8)
    w = torch.full((2, 512, 3, 3), 127, dtype=torch.int8)
    w[1] = -128
    _, packed = specialized("IntegerConv", None, w, domain="porting", pads=[1, 1, 1, 1], x_zero_point=7)
    y = packed(x, w)
    assert y[0, :, 2, 2].tolist() == [512 * 9 * -135 * 127, 512 * 9 * -135 * -128]
    assert y[0, :, 0, 0].tolist() == [512 * 4 * -135 * 127, 512 * 4 * -135 * -128]


def test_packable_names_what_float32_holds():
    assert packable(torch.zeros(1, 1, 1, 1, dtype=torch.int8))
    assert not packable(torch.zeros(1, 1, 1, 1, dtype=torch.float64))
    assert not packable(torch.zeros(1, 1, 1))
    assert not packable(torch.zeros(0, 1, 1, 1))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (4, 3, 5, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_batch_normalization_with_constant_statistics_matches_the_kernel(shape, dtype, rng):
    scale, b, mean = (normal(rng, 3) for _ in range(3))
    var = normal(rng, 3).abs() + 0.1
    kernel, constant = specialized("BatchNormalization", None, scale, b, mean, var, epsilon=1e-3)
    x = normal(rng, *shape, dtype=dtype)
    want = kernel(x, scale, b, mean, var, epsilon=1e-3)[0]
    got = constant(x, scale, b, mean, var)
    assert got.dtype == want.dtype
    # One rounding less than the kernel in float32; where float16 rounds to the other side, one unit in the last place.
    torch.testing.assert_close(got, want, rtol=2e-3 if dtype == torch.float16 else 1e-5, atol=1e-5)


def test_batch_normalization_specializes_to_inference_only(rng):
    statistics = [normal(rng, 3).abs() for _ in range(4)]
    assert specialized("BatchNormalization", None, *statistics, training_mode=1)[1] is None
    assert specialized("BatchNormalization", None, *statistics[:3], None)[1] is None
    assert specialized("BatchNormalization", None, None, *statistics[1:])[1] is None
