"""porting::GatingTopK, which experts a token goes to and with which weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.registry import kernel

SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": functools.partial(torch.softmax, dim=-1),
    "sigmoid": torch.sigmoid,
}


def _highest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of the highest values along the last axis, best first, the lower position first among equals."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :count]


@kernel("GatingTopK", domain="porting")
def gating_top_k(
    logits: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    k: int,
    groups: int = 1,
    k_group: int = 1,
    group_top: int = 1,
    score: str = "softmax",
    after_top_k: int = 0,
    renormalize: int = 0,
    scale: float = 1.0,
    epsilon: float = 0.0,
    mask_value: float = -math.inf,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Select k experts a token, from the best groups of experts only, and weigh them.

    logits: (N, E) float16, bfloat16 or float32, the router's output. bias: (E,), added to the scores for the selection
    only, never to the weights. Returns weights (N, k) float32 and ids (N, k) int64, by descending biased score; among
    equals the lower id comes first, in groups as in experts.

    score: ``softmax`` (Mixtral, Qwen-MoE, DeepSeek-V2) or ``sigmoid`` (DeepSeek-V3) of the logits; with after_top_k the
    logits themselves select and only the k selected ones are scored (softmax: gpt-oss; sigmoid: Llama 4).
    group_top: how many of its best scores add up to a group's score, 2 in DeepSeek-V3, 1 (the maximum) in DeepSeek-V2
    and in DeepSeek's Gate without a bias; k_group of the groups stay.
    mask_value: what the biased score of an expert outside of them counts as. -inf in DeepSeek's inference/model.py
    (class Gate) and in transformers 5.24 (DeepseekV3TopkRouter, Glm4MoeTopkRouter); 0.0 in transformers 4 and in
    transformers' DeepSeek-V2 and Mistral 4. With 0.0 an expert outside wins against a negative biased score, and has
    its own score for a weight; DeepSeek-V2 would weigh it 0, but its softmax is not negative.
    renormalize: divide by sum + epsilon; epsilon is 1e-20 in transformers' DeepSeek-V3, 0 in DeepSeek's Gate, in
    Mixtral and Qwen3-MoE.

    Everything is float32 (float64 for float64 logits), in the order score, selection, renormalization, scale.
    Raises ShapeError when E is no multiple of groups or the groups hold too few experts.
    """
    experts = logits.shape[-1]
    if score not in SCORES:
        raise PortingError("unknown score of a gating", required=" | ".join(SCORES), met=score)
    if groups < 1 or experts % groups:
        raise ShapeError("experts do not divide into groups", required=f"a multiple of {groups}", met=experts)
    width = experts // groups
    if not (0 < group_top <= width and 0 < k_group <= groups and 0 < k <= k_group * width):
        raise ShapeError(
            "a gating selects more than there is",
            required=f"group_top <= {width}, k_group <= {groups}, k <= {k_group * width}",
            met=f"group_top {group_top}, k_group {k_group}, k {k}",
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scores = wide if after_top_k else SCORES[score](wide)
    biased = scores if bias is None else scores + bias.to(scores.dtype)
    if k_group < groups:
        grouped = biased.unflatten(-1, (groups, width))
        best = _highest(grouped.topk(group_top, dim=-1).values.sum(-1), k_group)
        outside = torch.ones(grouped.shape[:-1], dtype=torch.bool).scatter_(-1, best, False)
        biased = grouped.masked_fill(outside.unsqueeze(-1), mask_value).flatten(-2)
    ids = _highest(biased, k)
    source = wide if after_top_k else scores
    return _weights(source, ids, score if after_top_k else None, renormalize, scale, epsilon), ids


def gating_weights(
    logits: torch.Tensor,
    ids: torch.Tensor,
    *,
    score: str = "softmax",
    after_top_k: int = 0,
    renormalize: int = 0,
    scale: float = 1.0,
    epsilon: float = 0.0,
) -> torch.Tensor:
    """The weights that :func:`gating_top_k` gives to experts that were chosen elsewhere.

    logits: (N, E); ids: (N, k) int64, any experts in any order. Returns (N, k) float32 (float64 for float64 logits).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    source = wide if after_top_k else SCORES[score](wide)
    return _weights(source, ids, score if after_top_k else None, renormalize, scale, epsilon)


def _weights(
    source: torch.Tensor, ids: torch.Tensor, late_score: str | None, renormalize: int, scale: float, epsilon: float
) -> torch.Tensor:
    weights = source.gather(-1, ids)
    if late_score is not None:
        weights = SCORES[late_score](weights)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + epsilon)
    return weights * scale
