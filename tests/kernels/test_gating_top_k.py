"""Truths: a selection written with Python's sort, and the routers of transformers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    GptOssConfig,
    Llama4TextConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.mistral4.configuration_mistral4 import Mistral4Config
from transformers.models.mistral4.modeling_mistral4 import Mistral4TopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.gating_top_k import gating_top_k

H, E = 16, 16
DEEPSEEK = {"hidden_size": H, "n_routed_experts": E, "num_experts_per_tok": 4, "num_attention_heads": 4}
DEEPSEEK_V3 = {**DEEPSEEK, "num_local_experts": E, "routed_scaling_factor": 2.5, "norm_topk_prob": True}

ROUTERS = {
    "deepseek_v3": (
        DeepseekV3TopkRouter(DeepseekV3Config(**DEEPSEEK_V3, n_group=4, topk_group=2)),
        {"groups": 4, "k_group": 2, "group_top": 2, "score": "sigmoid"},
        {"renormalize": 1, "epsilon": 1e-20, "scale": 2.5},
    ),
    "deepseek_v3 one group": (
        DeepseekV3TopkRouter(DeepseekV3Config(**{**DEEPSEEK_V3, "norm_topk_prob": False}, n_group=1, topk_group=1)),
        {"score": "sigmoid"},
        {"scale": 2.5},
    ),
    "deepseek_v2 greedy": (
        DeepseekV2TopkRouter(DeepseekV2Config(**DEEPSEEK, routed_scaling_factor=16.0, topk_method="greedy")),
        {},
        {"scale": 16.0},
    ),
    "deepseek_v2 groups": (
        DeepseekV2TopkRouter(DeepseekV2Config(**DEEPSEEK, n_group=4, topk_group=2, topk_method="group_limited_greedy")),
        {"groups": 4, "k_group": 2, "group_top": 1, "mask_value": 0.0},
        {},
    ),
    "mistral4": (
        Mistral4TopkRouter(Mistral4Config(**DEEPSEEK, n_group=4, topk_group=2, norm_topk_prob=True)),
        {"groups": 4, "k_group": 2, "group_top": 2, "mask_value": 0.0},
        {"renormalize": 1, "epsilon": 1e-20},
    ),
    "mixtral": (
        MixtralTopKRouter(MixtralConfig(hidden_size=H, num_local_experts=E, num_experts_per_tok=4)),
        {},
        {"renormalize": 1},
    ),
    "qwen3_moe": (
        Qwen3MoeTopKRouter(Qwen3MoeConfig(hidden_size=H, num_experts=E, num_experts_per_tok=4, norm_topk_prob=False)),
        {},
        {},
    ),
    "gpt_oss": (
        GptOssTopKRouter(GptOssConfig(hidden_size=H, num_local_experts=E, num_experts_per_tok=4)),
        {"after_top_k": 1},
        {},
    ),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_equals_the_router_of_transformers(name):
    """Tolerance: a sum of k in another order (torch.topk unsorted)."""
    router, selection, weighting = ROUTERS[name]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*router.parameters(), *router.buffers()):
            tensor.normal_(std=0.4, generator=generator)
        logits, weights, ids = router(torch.randn(64, H, generator=generator))
    bias = getattr(router, "e_score_correction_bias", None)
    got_weights, got_ids = gating_top_k(logits, bias, k=4, **selection, **weighting)
    by_id, got_by_id = ids.sort(-1), got_ids.sort(-1)
    assert torch.equal(got_by_id.values, by_id.values)
    torch.testing.assert_close(
        got_weights.gather(-1, got_by_id.indices), weights.gather(-1, by_id.indices), rtol=1e-6, atol=0
    )


def test_equals_the_router_of_llama_4():
    """It scores the selected logits and spreads them over all experts, 0 elsewhere."""
    router = Llama4Router(Llama4TextConfig(hidden_size=H, num_local_experts=E, num_experts_per_tok=3))
    with torch.no_grad():
        router.weight.normal_(generator=torch.Generator().manual_seed(2))
        scores, logits = router(torch.randn(64, H, generator=torch.Generator().manual_seed(3)))
    weights, ids = gating_top_k(logits, k=3, score="sigmoid", after_top_k=1)
    assert torch.equal(torch.zeros_like(scores).scatter(1, ids, weights), scores)


@st.composite
def gatings(draw):
    """Logits that select by themselves, on a coarse grid full of ties, whose sums of two are exact."""
    groups, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    k_group, group_top = draw(st.integers(1, groups)), draw(st.integers(1, min(2, width)))
    k = draw(st.integers(1, k_group * width))
    values = st.integers(-3, 3).map(lambda i: i / 4)
    rows = draw(st.lists(st.lists(values, min_size=groups * width, max_size=groups * width), max_size=4))
    bias = draw(st.lists(values, min_size=groups * width, max_size=groups * width))
    mask_value = draw(st.sampled_from([-math.inf, 0.0]))
    attributes = {"k": k, "groups": groups, "k_group": k_group, "group_top": group_top, "mask_value": mask_value}
    return torch.tensor(rows).reshape(len(rows), groups * width), torch.tensor(bias), attributes


def _select(row, bias, *, k, groups, k_group, group_top, mask_value):
    biased = [s + b for s, b in zip(row, bias, strict=True)]
    width = len(row) // groups
    members = [range(g * width, (g + 1) * width) for g in range(groups)]
    totals = [sum(sorted((biased[e] for e in group), reverse=True)[:group_top]) for group in members]
    best = sorted(range(groups), key=lambda g: (-totals[g], g))[:k_group]
    seen = [value if e // width in best else mask_value for e, value in enumerate(biased)]
    return sorted(range(len(row)), key=lambda e: (-seen[e], e))[:k]


@given(gatings())
def test_ties_go_to_the_lower_id(case):
    logits, bias, attributes = case
    weights, ids = gating_top_k(logits, bias, after_top_k=1, **attributes)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [_select(row, bias.tolist(), **attributes) for row in logits.tolist()]
    torch.testing.assert_close(weights, torch.softmax(logits.gather(1, ids), -1), rtol=1e-6, atol=0)


def test_bias_moves_the_selection_and_not_the_weights():
    weights, ids = gating_top_k(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([9.0, 0.0, 0.0]), k=2, score="sigmoid")
    assert ids.tolist() == [[0, 1]]
    assert torch.equal(weights, torch.sigmoid(torch.tensor([[0.0, 2.0]])))


@pytest.mark.parametrize("mask_value, ids", [(-math.inf, [2, 3]), (0.0, [2, 0])])
def test_an_outside_expert_wins_against_a_negative_score_only_when_masked_with_zero(mask_value, ids):
    logits, bias = torch.zeros(1, 4), torch.tensor([-0.4, -0.4, 0.5, -2.0])
    attributes = {"k": 2, "groups": 2, "k_group": 1, "score": "sigmoid", "mask_value": mask_value}
    assert gating_top_k(logits, bias, **attributes)[1].tolist() == [ids]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_half_precision_are_float32_and_of_float64_stay_so(dtype):
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    weights, ids = gating_top_k(logits, k=3)
    wide = logits if dtype == torch.float64 else logits.to(torch.float32)
    assert torch.equal(weights, torch.softmax(wide, -1).gather(1, ids))


@pytest.mark.parametrize(
    "attributes, error",
    [
        ({"k": 2, "groups": 3}, "do not divide"),
        ({"k": 9}, "more than there is"),
        ({"k": 5, "groups": 4, "k_group": 2}, "more than there is"),
        ({"k": 1, "groups": 8, "group_top": 2}, "more than there is"),
        ({"k": 1, "groups": 2, "k_group": 3}, "more than there is"),
    ],
)
def test_a_selection_that_cannot_be_is_refused(attributes, error):
    with pytest.raises(ShapeError, match=error):
        gating_top_k(torch.zeros(1, 8), **attributes)


def test_an_unknown_score_is_refused():
    with pytest.raises(PortingError, match="unknown score"):
        gating_top_k(torch.zeros(1, 8), k=1, score="relu")
