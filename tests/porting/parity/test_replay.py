"""Forced routing on exported language models, against transformers' own model with its routers replaced by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
import torch

from porting.frontends.checkpoint_graph import export, instantiate
from porting.parity import anchors
from porting.parity.language_model import routers_of
from porting.parity.replay import replay
from porting.simulation.interpreter import Interpreter

transformers = pytest.importorskip("transformers")

BASE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
DEEPSEEK = BASE | {
    "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3,
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "head_dim": 16}


def of_deepseek(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    chosen = logits.sigmoid().gather(1, ids)
    return chosen / chosen.sum(1, keepdim=True) * 2.5


def of_softmax(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    chosen = logits.softmax(-1).gather(1, ids)
    return chosen / chosen.sum(1, keepdim=True)


Weigh = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
CASES: dict[str, tuple[str, dict[str, Any], Weigh, int]] = {
    "deepseek_v3": ("DeepseekV3Config", DEEPSEEK, of_deepseek, 2),
    "mixtral": ("MixtralConfig", BASE | {"num_local_experts": 4}, of_softmax, 3),
    "qwen3_moe": ("Qwen3MoeConfig", BASE | EXPERTS | {"norm_topk_prob": True}, of_softmax, 3),
}


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if name == "deepseek_v3" else pytest.mark.slow) for name in CASES]
)
def test_a_replay_is_the_model_with_these_experts(case: str) -> None:
    """Tolerance: the budget of a float32 port, sums in another order."""
    kind, fields, weigh, count = CASES[case]
    config = getattr(transformers, kind)(**fields)
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_(std=0.15) if tensor.dim() > 1 else tensor.add_(torch.randn_like(tensor) * 0.1)
    model = export(instantiate(config))
    weights = module.state_dict()
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            value.const_value = ir.tensor(weights[name].numpy(), name=name)
    routers = routers_of(model, anchors.find(model, model.clone(), anchors.of_model(model)))
    assert [router.module.rpartition(".")[2] for router in routers] == ["gate"] * count

    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    reference = Interpreter(model)
    free = replay(reference, {"input_ids": ids}, routers, {})
    own = {router.ids: router.choose(free.logits[router.ids]) for router in routers}
    unforced = replay(reference, {"input_ids": ids}, routers, {name: x.flip(-1) for name, x in own.items()})
    assert torch.equal(unforced.outputs["logits"], free.outputs["logits"]), "the same sets change nothing"

    generator = torch.Generator().manual_seed(2)
    choices = {name: x.clone() for name, x in own.items()}
    for router in routers:
        for row in (1, 4, 11):
            choices[router.ids][row] = torch.randperm(router.experts, generator=generator)[: own[router.ids].shape[1]]
    forced = replay(reference, {"input_ids": ids}, routers, choices).outputs["logits"]

    for router in routers:
        part, _, name = router.module.rpartition(".")
        gate = module.get_submodule(f"{part}.{name}")
        plain = gate.forward
        gate.forward = lambda x, plain=plain, given=choices[router.ids]: (
            (logits := plain(x)[0]), weigh(logits.float(), given), given,
        )  # fmt: skip
    with torch.no_grad():
        expected = module(input_ids=ids).logits
    assert float((forced - expected).norm() / expected.norm()) < 1e-5
    assert float((free.outputs["logits"] - expected).norm() / expected.norm()) > 1e-3, "the choices matter"
