"""Every plain translation computes what ATen does, at sizes that were not traced, and at less length."""

import collections

import numpy as np
import onnx_ir as ir
import pytest
import torch

from porting.frontends import checkpoint_translations as translations
from porting.simulation.interpreter import Interpreter

CASES = {
    "slices": lambda x, n: (x[:, 1:3], x[..., ::2], x[1:], x[:, :, -3:], x[:, : x.shape[1] - 1]),
    "slice_scatter": lambda x, n: (written(x, 0, 4), written(x, 3, 8), written(x, 2, 5)),
    "views": lambda x, n: (
        x.view(x.shape[0], x.shape[1], -1, 4),
        x.view(-1, 8),
        x.view(x.shape[0] * x.shape[1], 2, 4),
        x.reshape(-1, 8).view(x.shape[0], x.shape[1], 8),
        x.unsqueeze(1).view(x.shape[0], x.shape[1], -1, 2),
    ),
    "expands": lambda x, n: (x[:, None].expand(-1, 3, -1, -1), x[:, :1].expand(x.shape[0], x.shape[1], 8)),
    "indexing": lambda x, n: (x.view(-1, 8)[n % 3], x[:, torch.zeros_like(n)], x[n * 0, n * 0], x[x > 0]),
    "sorting": lambda x, n: (*torch.sort(n), *torch.topk(x, 3), *torch.topk(x, 2, dim=1, largest=False)),
    "groups": lambda x, n: groups(n),
    "inverse": lambda x, n: (inverse(torch.sort(n)[1]),),
    "splits": lambda x, n: (*x.split([3, 5], -1), *x.chunk(2, -1), *x.split(3, -1), *x.split(8, -1)),
    "means": lambda x, n: (x.mean(-1, keepdim=True), x.mean((0, 1)), x.mean(-1, dtype=torch.float64)),
    "filling": lambda x, n: (
        x.masked_fill(x > 0, float("-inf")),
        torch.zeros_like(x),
        torch.ones_like(n),
        x.gather(2, (x > 0).long()),
    ),
    "arange": lambda x, n: (torch.arange(x.shape[1]), torch.arange(1, x.shape[0] + 1)),
    "floor_divide": lambda x, n: (torch.sort(n)[1] // 3, (n - 5) // 3),
}


def written(x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    y = x.clone()
    y[..., start:stop] = x[..., : stop - start] * 2
    return y


def groups(n: torch.Tensor) -> tuple[torch.Tensor, ...]:
    counts = torch.histc(n.int(), bins=6, min=0, max=5) if n.is_meta else torch.bincount(n, minlength=6).int()
    return counts, torch.cumsum(counts, 0, dtype=torch.int32)


def inverse(order: torch.Tensor) -> torch.Tensor:
    result = torch.empty_like(order)
    result[order] = torch.arange(order.size(0), device=order.device)
    return result


class All(torch.nn.Module):
    def forward(self, x: torch.Tensor, n: torch.Tensor) -> dict[str, tuple[torch.Tensor, ...]]:
        return {name: case(x, n) for name, case in CASES.items()}


def sample(batch: int, sequence: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + sequence)
    return (
        torch.randn(batch, sequence, 8, generator=generator),
        torch.randint(0, 6, (count,), generator=generator),
    )


@pytest.fixture(scope="module")
def exported() -> object:
    dims = {name: torch.export.Dim(name, min=low) for name, low in (("batch", 1), ("sequence", 3), ("count", 1))}
    program = torch.export.export(
        All(),
        tuple(tensor.to("meta") for tensor in sample(3, 5, 7)),
        dynamic_shapes={"x": {0: dims["batch"], 1: dims["sequence"]}, "n": {0: dims["count"]}},
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    how = {"dynamo": True, "opset_version": 20, "optimize": False, "verbose": False}
    return torch.onnx.export(program, custom_translation_table=translations.TABLE, **how).model


@pytest.mark.parametrize("sizes", [(3, 5, 7), (1, 4, 12), (4, 9, 6)])
def test_translations_equal_aten(sizes: tuple[int, int, int], exported: object) -> None:
    x, n = sample(*sizes)
    results = iter(Interpreter(exported).run({"x": x, "n": n}).values())
    for name, case in CASES.items():
        for number, expected in enumerate(case(x, n)):
            got = next(results)
            assert got.dtype == expected.dtype, (name, number)
            np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=f"{name} {number}")


def test_plain_forms_are_used(exported: object) -> None:
    count = collections.Counter(node.op_type for node in exported.graph)
    assert not {"SplitToSequence", "SequenceAt"} & set(count)
    assert count["Split"] == 3


def test_histogram_of_other_bins_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="only counts of integers"):
        translations.histc(ir.Value(name="x", type=ir.TensorType(ir.DataType.INT64)), bins=4, min=0, max=9)
