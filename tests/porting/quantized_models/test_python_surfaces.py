"""Whole models on surfaces of Python calls: nothing illegal, every call accepted, and the simulation's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from porting import frontends
from porting.frontends.source import Source
from porting.pipeline import Pipeline
from porting.quantization.decide import decider
from porting.runner.vendor_calls import VendorCalls
from porting.simulation.interpreter import Interpreter
from porting.target import Target

# Calls of a model with one dense layer and one of experts: what must be there, whatever else is.
CALLS = {
    ("ascend-910b", "w8a8"): {"npu_dynamic_quant", "npu_quant_matmul", "npu_grouped_matmul", "npu_rms_norm"},
    ("ascend-910b", "w4a8"): {"npu_dynamic_quant", "npu_quant_matmul", "npu_grouped_matmul"},
    ("cambricon-mlu590", "w8a8"): {
        *("scaled_quantize", "smooth_quant_matmul", "smooth_quant_group_gemm", "moe_sigmoid_topk", "moe_gen_idx"),
        *("moe_expand_input", "moe_combine_result", "active", "fused_rms_norm", "apply_rotary", "flash_attention"),
    },
    ("cambricon-mlu590", "w4a8"): {"scaled_quantize", "smooth_quant_matmul", "smooth_quant_group_gemm"},
    ("cambricon-mlu590", "w8a16"): {"weight_only_quant_matmul", "group_gemm"},
    ("cambricon-mlu590", "w4a16-g128"): {"weight_only_quant_matmul", "group_gemm"},
}


@pytest.fixture(scope="module")
def source(random_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A DeepSeek-V3 of random weights whose experts read groups of 128 columns."""
    folder = tmp_path_factory.mktemp("surfaces")
    fields = {"hidden_size": 128, "num_hidden_layers": 2, "first_k_dense_replace": 1}
    return frontends.load(str(random_checkpoint(folder, 3, **fields)))


@pytest.mark.parametrize(("backend", "scheme"), CALLS)
def test_a_whole_model(vendor: Callable[[str], ModuleType], source: Source, backend: str, scheme: str) -> None:
    target = Target.resolve(backend, scheme=scheme, language_model=True)
    pipeline = Pipeline(source.model.clone(), target, language_model=True)
    pipeline.bind(source.dims)
    pipeline.to_surface(decide=lambda: decider(source, target))
    pipeline.require_legal()
    pipeline.lower()
    operators = target.surface.operator_set
    assert not any(node.domain == "porting" for node in pipeline.model.graph.all_nodes())
    ids = {"input_ids": torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 24)))}
    simulated = Interpreter(pipeline.model).run(ids)["logits"]
    module = vendor(target.surface.name)
    called = Interpreter(pipeline.model, bind=VendorCalls(operators).bind).run(ids)["logits"]
    assert set(module.CALLS) >= CALLS[backend, scheme]
    assert called.dtype == simulated.dtype
    torch.testing.assert_close(called, simulated, rtol=2.0**-6, atol=2.0**-6 * float(simulated.abs().max()))


FACTORY = """
import torch


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, 64))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = Norm()
        self.gate, self.up = (torch.nn.Linear(64, 96, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(96, 64, bias=False)

    def forward(self, x):
        y = self.norm(x)
        return x + self.down(torch.nn.functional.silu(self.gate(y)) * self.up(y))


def factory():
    torch.manual_seed(0)
    return Block().eval(), (torch.randn(4, 64),)
"""


def test_a_module_of_the_user_is_fused_and_quantized_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_block.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    source, target = frontends.load("one_block:factory"), Target.resolve("ascend-910b", scheme="w8a8")
    assert target.surface.name == "torch_npu"
    pipeline = Pipeline(source.model.clone(), target)
    pipeline.bind(source.dims)
    pipeline.to_surface(decide=lambda: decider(source, target))
    pipeline.require_legal()
    pipeline.lower()
    calls = [node.op_type for node in pipeline.model.graph if node.domain == "torch_npu"]
    assert sorted(calls) == ["npu_dynamic_quant"] * 2 + ["npu_quant_matmul"] * 2 + ["npu_rms_norm", "npu_swiglu"]
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    (name,) = (value.name for value in pipeline.model.graph.outputs)
    got = Interpreter(pipeline.model).run({pipeline.model.graph.inputs[0].name: x})[name]
    want = torch.from_numpy(source.reference({source.model.graph.inputs[0].name: x.numpy()})[name])
    # bfloat16 between operators, and int8 codes of two products in a branch that is smaller than what it is added to.
    torch.testing.assert_close(got, want, rtol=0, atol=0.02 * float(want.abs().max()))
