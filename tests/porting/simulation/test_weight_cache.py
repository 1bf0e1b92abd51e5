"""A checkpoint's weights in a run: read where and when a step needs them, and dropped when the memory is full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from porting.simulation.interpreter import Interpreter
from porting.simulation.weight_cache import WeightCache
from porting.weights.store import WeightStore
from porting.weights.view import WeightView
from porting_kernels.numerics import REF64

HIDDEN, WORDS, INNER = 8, 1000, 6


@pytest.fixture
def store(tmp_path: Path) -> WeightStore:
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "embed": torch.randn(WORDS, HIDDEN, generator=generator),
        "up": torch.randn(INNER, HIDDEN, generator=generator).to(torch.bfloat16),
        "down": torch.randn(HIDDEN, INNER, generator=generator),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return WeightStore(tmp_path)


def model_of(store: WeightStore) -> ir.Model:
    views = {
        "embed": WeightView.of(store, "embed", torch.float32),
        "up": WeightView.of(store, "up", torch.float32).transposed(),
        "down": WeightView.of(store, "down", torch.float32).transposed(),
    }
    x = ir.val("ids", ir.DataType.INT64, ["n"])
    weights = {
        name: ir.Value(name=name, type=ir.TensorType(view.dtype), shape=view.shape, const_value=view)
        for name, view in views.items()
    }
    gather = ir.node("Gather", [weights["embed"], x])
    up = ir.node("MatMul", [gather.outputs[0], weights["up"]])
    relu = ir.node("Relu", up.outputs)
    down = ir.node("MatMul", [relu.outputs[0], weights["down"]])
    down.outputs[0].name = "y"
    nodes = [gather, up, relu, down]
    graph = ir.Graph([x], down.outputs, nodes=nodes, initializers=list(weights.values()), opset_imports={"": 20})
    return ir.Model(graph, ir_version=10)


def expected(store: WeightStore, ids: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    embed, up, down = (store.tensor(name).to(dtype) for name in ("embed", "up", "down"))
    return torch.relu(embed[torch.from_numpy(ids)] @ up.T) @ down.T


IDS = np.array([5, 999, 5, -1, 0])


@pytest.mark.parametrize("memory", [None, 0, 300])
def test_a_run_equals_the_same_products_in_torch_whatever_the_memory(store: WeightStore, memory: int | None) -> None:
    interpreter = Interpreter(model_of(store), memory=memory)
    for _ in range(2):  # the second finds what the memory kept; BLAS may sum a turned matrix in another order
        torch.testing.assert_close(interpreter.run({"ids": IDS})["y"], expected(store, IDS), rtol=1e-6, atol=1e-6)


def test_making_an_interpreter_reads_nothing_and_an_embedding_only_its_rows(store: WeightStore) -> None:
    interpreter = Interpreter(model_of(store))
    assert store.data_bytes_read == 0
    interpreter.run({"ids": IDS})
    once = store.data_bytes_read
    assert once == 3 * HIDDEN * 4 + INNER * HIDDEN * (2 + 4), "rows 0, 5 and 999 of the embedding, both matrices"
    interpreter.run({"ids": IDS[:1]})
    assert store.data_bytes_read == once + HIDDEN * 4, "the matrices are still there"


def test_without_memory_every_use_reads_again(store: WeightStore) -> None:
    interpreter = Interpreter(model_of(store), memory=0)
    interpreter.run({"ids": IDS})
    once = store.data_bytes_read
    interpreter.run({"ids": IDS})
    assert store.data_bytes_read == 2 * once


def test_in_float64_stored_weights_are_promoted(store: WeightStore) -> None:
    y = Interpreter(model_of(store), numerics=REF64).run({"ids": IDS})["y"]
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, expected(store, IDS, torch.float64), rtol=1e-14, atol=1e-14)


def test_a_weight_as_graph_output_is_a_tensor(store: WeightStore) -> None:
    model = model_of(store)
    model.graph.outputs.append(model.graph.initializers["down"])
    assert torch.equal(Interpreter(model).run({"ids": IDS})["down"], store.tensor("down").T)


def test_the_least_recently_used_is_dropped_first() -> None:
    cache, reads = WeightCache(80), []

    def get(name: str, size: int = 10) -> torch.Tensor:
        return cache.get(name, lambda: (reads.append(name), torch.zeros(size))[1])

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
    assert reads == ["a", "b", "c", "b"], "b went when c came, since a was used after it"
    get("huge", 1000)
    get("huge", 1000)
    assert reads[-2:] == ["huge", "huge"], "what the budget cannot hold is not kept"
    get("a"), get("b")
    assert reads[-2:] == ["huge", "huge"], "and pushes nothing out"
