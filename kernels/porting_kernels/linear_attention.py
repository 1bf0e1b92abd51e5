"""LinearAttention and CausalConvWithState: the recurrent token mixers of opset 27."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel

_RULES = ("linear", "gated", "delta", "gated_delta")


@kernel("LinearAttention", since=27)
@rounds_once
def linear_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    past_state: torch.Tensor | None = None,
    decay: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    *,
    kv_num_heads: int,
    q_num_heads: int,
    chunk_size: int = 64,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with a (d_k, d_v) state a head instead of a cache, token by token; returns output and present_state.

    query (B, T, Hq*dk), key (B, T, Hkv*dk), value (B, T, Hkv*dv), past_state (B, Hkv, dk, dv), decay (B, T, Hkv*dk) or
    (B, T, Hkv) in log-space, beta (B, T, Hkv) or (B, T, 1). chunk_size does not change the result.
    Source: ONNX operator LinearAttention.
    """
    if update_rule not in _RULES:
        raise PortingError("unknown update_rule", required=", ".join(_RULES), met=update_rule)
    if ("gated" in update_rule and decay is None) or ("delta" in update_rule and beta is None):
        raise PortingError(f"update_rule {update_rule} lacks an operand", required="decay if gated, beta if delta")
    if q_num_heads % kv_num_heads:
        raise ShapeError("query heads do not share the key heads evenly", met=(q_num_heads, kv_num_heads))
    batch, tokens = query.shape[:2]
    q = query.reshape(batch, tokens, kv_num_heads, q_num_heads // kv_num_heads, -1)
    k = key.reshape(batch, tokens, kv_num_heads, 1, -1)
    v = value.reshape(batch, tokens, kv_num_heads, 1, -1)
    gate = None if decay is None else decay.reshape(batch, tokens, kv_num_heads, -1, 1).exp()
    rate = None if beta is None else beta.reshape(batch, tokens, -1, 1, 1)
    scale = scale or 1 / math.sqrt(k.shape[-1])
    state = query.new_zeros(batch, kv_num_heads, k.shape[-1], v.shape[-1]) if past_state is None else past_state
    outputs = []
    for t in range(tokens):
        if gate is not None and "gated" in update_rule:
            state = state * gate[:, t]
        update = v[:, t]
        if rate is not None and "delta" in update_rule:
            update = rate[:, t] * (update - k[:, t] @ state)
        state = state + k[:, t].transpose(2, 3) * update
        outputs.append(scale * (q[:, t] @ state))
    y = torch.stack(outputs, 1) if outputs else v.new_zeros(batch, 0, kv_num_heads, q.shape[3], v.shape[-1])
    return y.reshape(batch, tokens, q_num_heads * v.shape[-1]), state


@kernel("CausalConvWithState", since=27)
@rounds_once
def causal_conv_with_state(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    past_state: torch.Tensor | None = None,
    *,
    activation: str = "none",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depthwise convolution over past and present; returns output and the last k - 1 inputs as present_state.

    x (N, C, L), weight (C, 1, k), bias (C,), past_state (N, C, k - 1), zeros when absent. activation: none, silu or
    swish. Source: ONNX operator CausalConvWithState.
    """
    if activation not in ("none", "silu", "swish"):
        raise PortingError("unknown activation", required="none, silu or swish", met=activation)
    kept = weight.shape[2] - 1
    sequence = F.pad(x, (kept, 0)) if past_state is None else torch.cat((past_state, x), 2)
    y = F.conv1d(sequence, weight, bias, groups=x.shape[1])
    state = sequence[:, :, sequence.shape[2] - kept :]
    return (y if activation == "none" else F.silu(y)), state
