"""Whole mixture-of-experts blocks of transformers, made of the composite operators."""

import pytest
import torch
from transformers import DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from porting_kernels.gating_top_k import gating_top_k
from porting_kernels.grouped_matmul import grouped_matmul
from porting_kernels.moe_combine import moe_combine
from porting_kernels.moe_dispatch import moe_dispatch
from porting_kernels.swiglu import swiglu

H, I, E, K = 16, 12, 8, 3  # noqa: E741
DEEPSEEK = {
    "n_routed_experts": E,
    "num_local_experts": E,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": I,
    "num_experts_per_tok": K,
}
GROUPED = {"groups": 4, "k_group": 2, "group_top": 2, "score": "sigmoid", "renormalize": 1, "scale": 2.5}
BLOCKS = {
    "deepseek_v3": (lambda: DeepseekV3MoE(DeepseekV3Config(hidden_size=H, **DEEPSEEK)), {**GROUPED, "epsilon": 1e-20}),
    "mixtral": (
        lambda: MixtralSparseMoeBlock(
            MixtralConfig(hidden_size=H, intermediate_size=I, num_local_experts=E, num_experts_per_tok=K)
        ),
        {"renormalize": 1},
    ),
    "qwen3_moe": (
        lambda: Qwen3MoeSparseMoeBlock(
            Qwen3MoeConfig(
                hidden_size=H, moe_intermediate_size=I, num_experts=E, num_experts_per_tok=K, norm_topk_prob=True
            )
        ),
        {"renormalize": 1},
    ),
    "gpt_oss": (
        lambda: GptOssMLP(GptOssConfig(hidden_size=H, intermediate_size=I, num_local_experts=E, num_experts_per_tok=K)),
        {"after_top_k": 1},
    ),
}


def _ours(block: torch.nn.Module, x: torch.Tensor, gating: dict) -> torch.Tensor:
    router = block.router if hasattr(block, "router") else block.gate
    experts, gpt_oss = block.experts, hasattr(block, "router")
    logits = router(x)[0]
    weights, ids = gating_top_k(logits, getattr(router, "e_score_correction_bias", None), k=K, **gating)
    rows, offsets, index = moe_dispatch(x, ids, experts=E)
    layout = {"transposed": 0 if gpt_oss else 1}
    up_bias, down_bias = (experts.gate_up_proj_bias, experts.down_proj_bias) if gpt_oss else (None, None)
    gate_up = grouped_matmul(rows, experts.gate_up_proj, offsets, up_bias, **layout)
    activation = {"interleaved": 1, "alpha": experts.alpha, "limit": experts.limit, "offset": 1.0} if gpt_oss else {}
    down = grouped_matmul(swiglu(gate_up, **activation), experts.down_proj, offsets, down_bias, **layout)
    y = moe_combine(down, index, weights)
    return y + block.shared_experts(x) if hasattr(block, "shared_experts") else y


@pytest.mark.parametrize("routing", ["spread", "one expert for all", "one token"])
@pytest.mark.parametrize("name", BLOCKS)
def test_equals_the_block_of_transformers(name, routing):
    """Tolerance: transformers adds a token's experts up by expert, and we by slot."""
    make, gating = BLOCKS[name]
    block = make()
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for tensor in (*block.parameters(), *block.buffers()):
            tensor.normal_(std=0.3, generator=generator)
        x = torch.randn(1 if routing == "one token" else 17, H, generator=generator)
        if routing == "one expert for all":
            x = x[:1].repeat(17, 1)
        expected = block(x[None])
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(_ours(block, x, gating), expected[0], rtol=1e-5, atol=2e-6)
