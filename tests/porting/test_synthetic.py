"""Made-up inputs: the same in every run, of the least size, and never so large that a machine suffers."""

import numpy as np
import onnx_ir as ir
import pytest

from porting import synthetic
from porting.errors import UsageError


def value(*dims: int | str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(dtype), shape=ir.Shape(dims))


def test_they_are_the_same_in_every_run_and_of_the_least_size() -> None:
    first, second = (synthetic.samples([value("n", 3)], {"n": (2, 8)}) for _ in range(2))
    assert [s["x"].shape for s in first] == [(2, 3)] * synthetic.COUNT
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])


@pytest.mark.parametrize(("shape", "dims"), [((100_000_000, 8), {}), (("n", 8), {"n": (2**31 - 1, 2**31 - 1)})])
def test_a_size_that_nobody_would_make_up_asks_for_data(
    shape: tuple[int | str, ...], dims: dict[str, tuple[int, int]]
) -> None:
    with pytest.raises(UsageError, match="give --inputs") as error:
        synthetic.samples([value(*shape)], dims)
    assert error.value.exit_code == 2
