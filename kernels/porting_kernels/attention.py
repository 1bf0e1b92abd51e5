"""Attention and RotaryEmbedding of opset 23 and later.

Operands are (batch, heads, sequence, head size), or (batch, sequence, heads * head size) with the numbers of heads as
attributes. Half precision computes in float32 and rounds once.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F

from porting_kernels.dtypes import torch_dtype
from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.precision import rounds_once, widen
from porting_kernels.registry import Context, kernel


def _split_heads(x: torch.Tensor, heads: int | None) -> torch.Tensor:
    if x.ndim == 4:
        return x
    if not heads or x.ndim != 3 or x.shape[2] % heads:
        raise ShapeError("attention operands need 4 axes, or 3 and a number of heads", met=(tuple(x.shape), heads))
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _bias(
    queries: int,
    keys: int,
    mask: torch.Tensor | None,
    *,
    is_causal: bool,
    offset: int | torch.Tensor,
    left: int,
    right: int,
    valid_keys: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """What is added to the scores, four axes that broadcast to (batch, heads, queries, keys): 0, -inf, or a float mask.

    offset: absolute position of the first query, (batch, 1, 1, 1) when it differs. A mask shorter than the keys
    forbids the rest. None when everything is allowed.
    """
    position = torch.arange(queries)[:, None] + offset
    key = torch.arange(keys)
    limits = []
    if is_causal and not (isinstance(offset, int) and offset >= keys - 1):
        limits.append(key <= position)
    if left >= 0:
        limits.append(key >= position - left)
    if right >= 0:
        limits.append(key <= position + right)
    if valid_keys is not None:
        limits.append(key < valid_keys.reshape(-1, 1, 1, 1))
    if mask is not None:
        missing = keys - mask.shape[-1]
        if mask.dtype == torch.bool:
            limits.append(F.pad(mask, (0, missing), value=False) if missing > 0 else mask)
            mask = None
        else:
            mask = widen(F.pad(mask, (0, missing), value=-math.inf) if missing > 0 else mask)
    if not limits:
        bias = mask
    else:
        allowed = functools.reduce(torch.logical_and, limits)
        bias = torch.where(allowed, 0.0 if mask is None else mask, -math.inf).to(dtype)
    return bias if bias is None else bias[(None,) * (4 - bias.ndim)]


@kernel("Attention", since=23)
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    past_key: torch.Tensor | None = None,
    past_value: torch.Tensor | None = None,
    nonpad_kv_seqlen: torch.Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    context: Context,
) -> tuple[torch.Tensor, ...]:
    """softmax(q k' * scale + bias) v, with grouped heads, a key-value cache, soft cap, causal and window limits.

    Returns Y, and on request present_key, present_value and the scores at the stage of qk_matmul_output_mode (0 raw,
    1 capped, 2 biased, 3 probabilities). A query that may attend no key gives zeros. softmax_precision counts where
    it is wider than the computation. Source: ONNX operator Attention, versions 23 to 25.
    """
    if (past_key is None) != (past_value is None) or (past_key is not None and nonpad_kv_seqlen is not None):
        raise PortingError(
            "contradictory key-value cache",
            required="past_key with past_value, or nonpad_kv_seqlen alone",
            met=[n for n, t in (("past_key", past_key), ("past_value", past_value)) if t is not None],
        )
    packed, dtype = q.ndim == 3, q.dtype
    q, k, v = _split_heads(q, q_num_heads), _split_heads(k, kv_num_heads), _split_heads(v, kv_num_heads)
    offset: int | torch.Tensor = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    elif nonpad_kv_seqlen is not None:
        offset = (nonpad_kv_seqlen - q.shape[2]).reshape(-1, 1, 1, 1)
    present = k, v
    q, k, v = widen(q), widen(k), widen(v)
    if q.shape[1] % k.shape[1] or k.shape[1] != v.shape[1]:
        raise ShapeError("query heads do not share the key heads evenly", met=(q.shape[1], k.shape[1], v.shape[1]))
    bias = _bias(
        q.shape[2],
        k.shape[2],
        attn_mask,
        is_causal=bool(is_causal),
        offset=offset,
        left=left_window_size,
        right=right_window_size,
        valid_keys=nonpad_kv_seqlen,
        dtype=q.dtype,
    )
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    scores = None
    if context.outputs < 4 and not softcap and (softmax_precision is None or q.dtype == torch.float64):
        y = F.scaled_dot_product_attention(q, k, v, bias, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        if bias is not None:
            y = y.masked_fill(bias.amax(-1, keepdim=True) == -math.inf, 0)
    else:
        precision = q.dtype if softmax_precision is None else torch_dtype(softmax_precision)
        y, scores = _attend(q, k, v, bias, scale, softcap, qk_matmul_output_mode, precision)
        scores = scores.to(dtype)
    y = y.transpose(1, 2).flatten(2) if packed else y
    return (y.to(dtype), *present) if scores is None else (y.to(dtype), *present, scores)


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float,
    mode: int,
    softmax_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The steps of attention one by one: Y and the scores at stage ``mode``."""
    shared = q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    root = math.sqrt(scale)
    scores = (q * root) @ (k.transpose(2, 3) * root)
    stages = [scores]
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    stages.append(scores)
    if bias is not None:
        scores = scores + bias
    stages.append(scores)
    wide = scores.to(torch.promote_types(scores.dtype, softmax_dtype))
    probabilities = torch.softmax(wide, -1).to(scores.dtype)
    if bias is not None:
        probabilities = probabilities.masked_fill(bias.amax(-1, keepdim=True) == -math.inf, 0)
    stages.append(probabilities)
    return probabilities @ v, stages[mode]


@kernel("RotaryEmbedding", since=23)
@rounds_once
def rotary_embedding(
    x: torch.Tensor,
    cos_cache: torch.Tensor,
    sin_cache: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> torch.Tensor:
    """Rotate the first rotary_embedding_dim (0: all) elements of each head by position; pairs are halves or neighbours.

    Caches are (positions, dim/2) read by position_ids (batch, sequence), or (batch, sequence, dim/2) without them.
    interleaved 0 is the layout of Llama, Qwen and gpt-oss, 1 that of GLM and of DeepSeek's own code; transformers'
    DeepSeek-V3 permutes each head from pairs to halves and goes on with 0. Source: ONNX operator RotaryEmbedding.
    """
    heads = _split_heads(x, num_heads)
    width = rotary_embedding_dim or heads.shape[3]
    if position_ids is not None:
        cos_cache, sin_cache = cos_cache[position_ids], sin_cache[position_ids]
    if cos_cache.shape[-1] != width // 2 or sin_cache.shape[-1] != width // 2:
        raise ShapeError(
            "rotary caches do not fit", required=width // 2, met=(cos_cache.shape[-1], sin_cache.shape[-1])
        )
    cos, sin = cos_cache.unsqueeze(1), sin_cache.unsqueeze(1)
    turned, kept = heads[..., :width], heads[..., width:]
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        turned = torch.stack((real, imaginary), -1).flatten(-2)
    else:
        turned = torch.cat((real, imaginary), -1)
    y = torch.cat((turned, kept), -1) if kept.shape[-1] else turned
    return y.transpose(1, 2).flatten(2) if x.ndim == 3 else y
