"""Every module of a language model against transformers: what the graph computes where the module ends."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from porting import frontends
from porting.simulation.interpreter import Interpreter
from porting_passes import provenance

transformers = pytest.importorskip("transformers")
TINY = Path(__file__).parents[3] / "examples" / "tiny_deepseek_v3"


def expected(ids: torch.Tensor, fp8_layout: ModuleType) -> dict[str, list[torch.Tensor]]:
    """Outputs of every module of transformers' eager model, by module path."""
    config = transformers.AutoConfig.from_pretrained(TINY, attn_implementation="eager", experts_implementation="eager")
    module = transformers.DeepseekV3ForCausalLM(config).eval()
    module.load_state_dict(fp8_layout.read(TINY))
    found: dict[str, list[torch.Tensor]] = {}

    def keep(path: str):
        def hook(_module, _inputs, output) -> None:
            parts = output if isinstance(output, tuple) else (output,)
            found[path] = [part for part in parts if isinstance(part, torch.Tensor)]

        return hook

    for path, inner in module.named_modules():
        if path:
            inner.register_forward_hook(keep(path))
    with torch.inference_mode():
        module(input_ids=ids, use_cache=False)
    return found


def computed(ids: np.ndarray) -> dict[str, torch.Tensor]:
    """The last value that the imported graph computes inside each module, by module path."""
    model = frontends.load(str(TINY)).model
    values: dict[str, torch.Tensor] = {}
    Interpreter(model).run({"input_ids": ids}, tap=lambda value, tensor: values.update({value.name: tensor.clone()}))
    last: dict[str, torch.Tensor] = {}
    for node in model.graph:
        for value in node.outputs:
            path = provenance.of(value).module or ""
            while path and value.name in values:
                last[path] = values[value.name]
                path = path.rpartition(".")[0]
    return last


def rel_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / a.double().norm())


def test_every_module_boundary_equals_transformers(fp8_layout: ModuleType) -> None:
    ids = np.frombuffer((TINY / "sample.txt").read_bytes()[:192], np.uint8).astype(np.int64).reshape(2, 96)
    ours, theirs = computed(ids), expected(torch.from_numpy(ids), fp8_layout)
    compared = {}
    for path, value in ours.items():
        fitting = [t for t in theirs.get(path, ()) if t.numel() == value.numel() and t.is_floating_point()]
        if path.endswith(".gate"):  # transformers asks for its experts in no order
            fitting, value = [t.sort(-1)[0] for t in fitting], value.sort(-1)[0]
        if fitting:
            compared[path] = min(rel_l2(t.reshape(value.shape), value) for t in fitting)
    wrong = {path: error for path, error in compared.items() if error > 1e-5}
    assert not wrong, wrong
    kinds = {path.rpartition(".")[2] for path in compared}
    assert {"self_attn", "mlp", "experts", "shared_experts", "input_layernorm", "q_b_proj", "o_proj"} <= kinds
    assert {f"model.layers.{i}" for i in range(6)} <= set(compared)
    assert len(compared) > 100
