"""porting::MLAAttention, multi-head latent attention: keys and values of all heads come from one latent vector."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from porting_kernels.errors import ShapeError, UnsupportedOperatorError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel

RESERVED = {6: "the latent of earlier positions", 7: "the rotary keys of earlier positions"}
"""Operands that are named and have no meaning yet."""


def refuse_reserved(given: Iterable[int], where: object = None) -> None:
    """Raise UnsupportedOperatorError when one of the operands at these places is a reserved one."""
    met = [f"operand {index}, {RESERVED[index]}" for index in given if index in RESERVED]
    if met:
        raise UnsupportedOperatorError(
            "MLAAttention takes no cache yet",
            required="operands 6 and 7, which are reserved for it, left out",
            met=" and ".join(met),
            where=where,
            fix="concatenate them in front of latent and k_rope, which may be longer than the query",
        )


@kernel("MLAAttention", domain="porting", owns_result=True)
@rounds_once
def mla_attention(
    q_nope: torch.Tensor,
    q_rope: torch.Tensor,
    latent: torch.Tensor,
    k_rope: torch.Tensor,
    kv_b: torch.Tensor,
    mask: torch.Tensor | None = None,
    past_latent: torch.Tensor | None = None,
    past_rope: torch.Tensor | None = None,
    *,
    scale: float,
    is_causal: int = 0,
    absorbed: int = 0,
) -> torch.Tensor:
    """Softmax((q_nope k_nope' + q_rope k_rope') * scale + mask) v, where [k_nope, v] of each head is latent @ kv_b.

    q_nope: (B, H, S, N). q_rope: (B, H, S, R), turned already. latent: (B, T, C), normalized. k_rope: (B, 1, T, R),
    turned, one for all heads. kv_b: (C, H (N + V)), for each head its N columns of the key and its V of the value.
    mask: broadcasts to (B, H, S, T), added to the scores. is_causal: query i sees the keys up to i + T - S. Returns
    (B, S, H V) of the dtype of q_nope; float32 inside, rounded once.

    absorbed changes the order of the products, not the meaning: the key's part of kv_b is multiplied into the query and
    the value's part into the result, so that attention runs over the latent itself, with C + R numbers a position, as
    chips do when they decode. DeepSeek's inference/model.py has both orders (attn_impl naive and absorb); transformers
    has the expanded one. Raises ShapeError when the operands do not fit, UnsupportedOperatorError for past_latent and
    past_rope, which are reserved.
    """
    refuse_reserved(index for index, past in ((6, past_latent), (7, past_rope)) if past is not None)
    heads, nope = q_nope.shape[1], q_nope.shape[3]
    per_head, rest = divmod(kv_b.shape[1], heads)
    if rest or per_head <= nope or latent.shape[2] != kv_b.shape[0] or q_rope.shape[3] != k_rope.shape[3]:
        raise ShapeError(
            "operands of latent attention do not fit",
            required=f"kv_b ({latent.shape[2]}, {heads} * ({nope} + V)), one rotary width",
            met=f"kv_b {tuple(kv_b.shape)}, rotary widths {q_rope.shape[3]} and {k_rope.shape[3]}",
        )
    weights = kv_b.unflatten(1, (heads, per_head)).permute(1, 0, 2)
    key_weights, value_weights = weights[..., :nope], weights[..., nope:]
    shared = latent.unsqueeze(1)
    if absorbed:
        scores = (q_nope @ key_weights.transpose(1, 2)) @ shared.transpose(2, 3)
    else:
        scores = q_nope @ (shared @ key_weights).transpose(2, 3)
    scores = (scores + q_rope @ k_rope.transpose(2, 3)) * scale
    if mask is not None:
        scores = scores + mask
    if is_causal:
        queries, keys = scores.shape[2:]
        future = torch.ones(queries, keys, dtype=torch.bool).triu_(keys - queries + 1)
        scores = scores.masked_fill(future, -torch.inf)
    probabilities = torch.softmax(scores, -1)
    values = (probabilities @ shared) @ value_weights if absorbed else probabilities @ (shared @ value_weights)
    y: torch.Tensor = values.transpose(1, 2).flatten(2)
    return y
