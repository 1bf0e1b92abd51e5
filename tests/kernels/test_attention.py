from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek_v3
from transformers.models.glm import modeling_glm as glm
from transformers.models.llama import modeling_llama as llama

from porting_kernels.errors import PortingError, ShapeError

CLOSE = {"rtol": 1e-5, "atol": 2e-6}  # sums of at most 16 products of unit normals, and one softmax


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def plain(q, k, v, bias=0.0, scale=None, softcap=0.0):
    """Attention by its definition in float64; a row without any key is zero."""
    q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
    shared = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, shared, 1), np.repeat(v, shared, 1)
    scores = q @ k.swapaxes(2, 3) * (scale if scale is not None else 1 / math.sqrt(q.shape[3]))
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    scores = scores + bias
    peak = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isneginf(peak), 0, peak))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v


def allowed(rule, queries, keys):
    i, j = np.indices((queries, keys))
    return np.where(rule(i, j), 0.0, -math.inf)


@pytest.fixture
def qkv(rng):
    """Grouped heads: 4 query heads share 2 key heads; 5 queries, 7 keys."""
    return normal(rng, 2, 4, 5, 16), normal(rng, 2, 2, 7, 16), normal(rng, 2, 2, 7, 8)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_grouped_heads(scale, softcap, qkv, ours):
    attributes = {"softcap": softcap} | ({} if scale is None else {"scale": scale})
    got = ours("Attention", *qkv, opset=23, **attributes)[0]
    np.testing.assert_allclose(got, plain(*qkv, scale=scale, softcap=softcap), **CLOSE)


def test_packed_heads_are_the_same_attention(qkv, ours):
    packed = [t.swapaxes(1, 2).reshape(2, t.shape[2], -1) for t in qkv]
    got, key, _ = ours("Attention", *packed, opset=23, outputs=3, q_num_heads=4, kv_num_heads=2)
    np.testing.assert_allclose(got, plain(*qkv).swapaxes(1, 2).reshape(2, 5, -1), **CLOSE)
    np.testing.assert_array_equal(key, qkv[1])


def test_causal_queries_start_after_the_cache(rng, qkv, ours):
    q, k, v = qkv
    got, key, value = ours("Attention", q, k, v, None, k[:, :, :3], v[:, :, :3], opset=23, outputs=3, is_causal=1)
    keys, values = np.concatenate((k[:, :, :3], k), 2), np.concatenate((v[:, :, :3], v), 2)
    np.testing.assert_array_equal(key, keys)
    np.testing.assert_array_equal(value, values)
    np.testing.assert_allclose(got, plain(q, keys, values, allowed(lambda i, j: j <= i + 3, 5, 10)), **CLOSE)


def test_external_cache_limits_keys_an_instance_and_zeroes_queries_before_it(qkv, ours):
    q, k, v = qkv
    got = ours("Attention", q, k, v, None, None, None, np.array([7, 3]), opset=24, is_causal=1)[0]
    bias = np.stack([allowed(lambda i, j, n=n: (j <= i + n - 5) & (j < n), 5, 7) for n in (7, 3)])[:, None]
    np.testing.assert_allclose(got, plain(q, k, v, bias), **CLOSE)
    np.testing.assert_array_equal(got[1, :, :2], 0)


def test_sliding_window(qkv, ours):
    got = ours("Attention", *qkv, opset=25, left_window_size=2, right_window_size=1)[0]
    np.testing.assert_allclose(got, plain(*qkv, allowed(lambda i, j: (j >= i - 2) & (j <= i + 1), 5, 7)), **CLOSE)


def test_boolean_mask_shorter_than_the_keys_and_an_empty_row(rng, qkv, ours):
    mask = rng.random((2, 1, 5, 6)) < 0.6
    mask[0, 0, 2] = False
    bias = np.where(np.pad(mask, [(0, 0)] * 3 + [(0, 1)]), 0.0, -math.inf)
    got = ours("Attention", *qkv, mask, opset=23)[0]
    np.testing.assert_allclose(got, plain(*qkv, bias), **CLOSE)
    np.testing.assert_array_equal(got[0, :, 2], 0)


def test_float_mask_adds_to_the_causal_limit(rng, qkv, ours):
    mask = normal(rng, 4, 5, 7)  # (heads, queries, keys)
    got = ours("Attention", *qkv, mask, opset=23, is_causal=1)[0]
    np.testing.assert_allclose(got, plain(*qkv, mask + allowed(lambda i, j: j <= i, 5, 7)), **CLOSE)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_scores_at_every_stage(mode, rng, qkv, ours):
    operands = (*qkv, normal(rng, 5, 7))
    attributes = {"opset": 24, "outputs": 4, "softcap": 1.5, "qk_matmul_output_mode": mode}
    scores = ours("Attention", *operands, **attributes)[3]
    q, k = qkv[0].astype(np.float64), np.repeat(qkv[1], 2, 1)
    stages = [q @ k.swapaxes(2, 3) / 4]
    stages.append(1.5 * np.tanh(stages[0] / 1.5))
    stages.append(stages[1] + operands[3])
    exponentials = np.exp(stages[2])
    stages.append(exponentials / exponentials.sum(-1, keepdims=True))
    np.testing.assert_allclose(scores, stages[mode], **CLOSE)


def test_half_rounds_once(qkv, ours):
    half = [t.astype(np.float16) for t in qkv]
    wide = ours("Attention", *(t.astype(np.float32) for t in half), opset=23)[0]
    np.testing.assert_array_equal(ours("Attention", *half, opset=23)[0], wide.astype(np.float16))


def test_contradictions_are_refused(qkv, ours):
    q, k, v = qkv
    with pytest.raises(PortingError, match="cache"):
        ours("Attention", q, k, v, None, k, opset=23)
    with pytest.raises(ShapeError, match="heads"):
        ours("Attention", q[:, :3], k, v, opset=23)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
def test_rotary_embedding_turns_each_pair(interleaved, width, rng, ours):
    x, positions = normal(rng, 2, 3, 5, 8), rng.integers(0, 50, (2, 5))
    half = (width or 8) // 2
    angle = np.arange(50)[:, None] / 10.0 ** np.arange(half)
    caches = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": width}
    got = ours("RotaryEmbedding", x, *caches, positions, opset=23, **attributes)[0]
    first = slice(0, 2 * half, 2) if interleaved else slice(0, half)
    second = slice(1, 2 * half, 2) if interleaved else slice(half, 2 * half)
    turned = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle[positions])[:, None]
    np.testing.assert_allclose(got[..., first], turned.real, **CLOSE)
    np.testing.assert_allclose(got[..., second], turned.imag, **CLOSE)
    np.testing.assert_array_equal(got[..., 2 * half :], x[..., 2 * half :])
    packed = ours(
        "RotaryEmbedding", x.swapaxes(1, 2).reshape(2, 5, 24), *caches, positions, opset=23, num_heads=3, **attributes
    )[0]
    np.testing.assert_array_equal(packed.reshape(2, 5, 3, 8).swapaxes(1, 2), got)


def test_rotary_cache_of_another_width_is_refused(rng, ours):
    with pytest.raises(ShapeError, match="caches"):
        ours("RotaryEmbedding", normal(rng, 1, 1, 2, 8), normal(rng, 1, 2, 3), normal(rng, 1, 2, 3), opset=23)


def angles(rng, batch, length, half):
    angle = rng.uniform(-3, 3, (batch, length, half))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def test_halves_are_the_layout_of_llama_and_its_kin(rng, ours):
    """transformers' caches hold each angle twice, the operator's once. Tolerance: a product contracted into the sum."""
    q, (cos, sin) = normal(rng, 2, 3, 5, 8), angles(rng, 2, 5, 4)
    twice = (torch.from_numpy(np.concatenate((a, a), -1)) for a in (cos, sin))
    expected, _ = llama.apply_rotary_pos_emb(torch.from_numpy(q), torch.from_numpy(q), *twice)
    np.testing.assert_allclose(ours("RotaryEmbedding", q, cos, sin, opset=23)[0], expected.numpy(), rtol=0, atol=5e-7)


def test_pairs_on_part_of_a_head_are_the_layout_of_glm(rng, ours):
    q, (cos, sin) = normal(rng, 2, 3, 5, 8), angles(rng, 2, 5, 2)
    twice = (torch.from_numpy(np.concatenate((a, a), -1)) for a in (cos, sin))
    expected, _ = glm.apply_rotary_pos_emb(torch.from_numpy(q), torch.from_numpy(q), *twice)
    got = ours("RotaryEmbedding", q, cos, sin, opset=23, interleaved=1, rotary_embedding_dim=4)[0]
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=5e-7)


def test_deepseek_reads_pairs_and_writes_halves(rng, ours):
    """transformers' DeepSeek-V3 takes neighbours for pairs and leaves the results as two halves.

    That is RotaryEmbedding of halves behind a permutation of the head, or of pairs (as in DeepSeek's own code) before
    the same permutation. Queries and keys are permuted alike, so that their products lose it.
    """
    q, k, (cos, sin) = normal(rng, 2, 3, 5, 8), normal(rng, 2, 3, 5, 8), angles(rng, 2, 5, 4)
    twice = (torch.from_numpy(np.concatenate((a, a), -1)) for a in (cos, sin))
    expected = deepseek_v3.apply_rotary_pos_emb_interleave(torch.from_numpy(q), torch.from_numpy(k), *twice)
    halves_of_pairs = [0, 2, 4, 6, 1, 3, 5, 7]
    pairs = [ours("RotaryEmbedding", x, cos, sin, opset=23, interleaved=1)[0] for x in (q, k)]
    for x, paired, want in zip((q, k), pairs, expected, strict=True):
        behind = ours("RotaryEmbedding", x[..., halves_of_pairs], cos, sin, opset=23)[0]
        np.testing.assert_allclose(behind, want.numpy(), rtol=0, atol=5e-7)
        np.testing.assert_array_equal(paired[..., halves_of_pairs], behind)
    scores = (expected[0] @ expected[1].transpose(2, 3)).numpy()
    np.testing.assert_allclose(pairs[0] @ pairs[1].swapaxes(2, 3), scores, **CLOSE)
