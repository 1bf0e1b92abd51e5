from __future__ import annotations

import numpy as np
import pytest

from porting_kernels.errors import PortingError


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("per_key_decay", [False, True])
def test_linear_attention_is_its_recurrence(rule, per_key_decay, rng, ours):
    batch, tokens, heads, shared, dk, dv = 2, 4, 2, 3, 5, 6
    q, k = normal(rng, batch, tokens, heads * shared * dk), normal(rng, batch, tokens, heads * dk)
    v, state = normal(rng, batch, tokens, heads * dv), normal(rng, batch, heads, dk, dv)
    decay = -np.abs(normal(rng, batch, tokens, heads * dk if per_key_decay else heads))
    beta = rng.random((batch, tokens, heads), np.float32)
    got, present = ours(
        "LinearAttention", q, k, v, state, decay, beta, opset=27, outputs=2,
        update_rule=rule, q_num_heads=heads * shared, kv_num_heads=heads,
    )  # fmt: skip
    want, s = np.zeros((batch, tokens, heads, shared, dv)), state.astype(np.float64)
    for b in range(batch):
        for t in range(tokens):
            for h in range(heads):
                key, value = k[b, t, h * dk : (h + 1) * dk], v[b, t, h * dv : (h + 1) * dv]
                if "gated" in rule:
                    gate = decay[b, t, h * dk : (h + 1) * dk, None] if per_key_decay else decay[b, t, h]
                    s[b, h] = np.exp(gate) * s[b, h]
                change = beta[b, t, h] * (value - s[b, h].T @ key) if "delta" in rule else value
                s[b, h] += np.outer(key, change)
                queries = q[b, t].reshape(heads, shared, dk)[h]
                want[b, t, h] = queries @ s[b, h] / np.sqrt(dk)
    np.testing.assert_allclose(got, want.reshape(batch, tokens, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(present, s, rtol=1e-4, atol=1e-5)


def test_linear_attention_needs_what_its_rule_uses(rng, ours):
    x = normal(rng, 1, 2, 4)
    for rule in ("gated_delta", "delta", "softmax"):
        with pytest.raises(PortingError, match="update_rule"):
            ours("LinearAttention", x, x, x, opset=27, update_rule=rule, q_num_heads=1, kv_num_heads=1)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_causal_convolution_in_pieces_is_the_whole(length, rng, ours):
    x, weight, bias = normal(rng, 2, 3, 9), normal(rng, 3, 1, 4), normal(rng, 3)
    whole, end = ours("CausalConvWithState", x, weight, bias, opset=27, outputs=2, activation="silu")
    conv = ours("Conv", np.pad(x, [(0, 0), (0, 0), (3, 0)]), weight, bias, group=3)[0]
    np.testing.assert_allclose(whole, conv / (1 + np.exp(-conv)), rtol=1e-5, atol=1e-6)
    state, pieces = None, []
    for start in range(0, 9, length):
        piece, state = ours(
            "CausalConvWithState", x[..., start : start + length], weight, bias, state,
            opset=27, outputs=2, activation="silu",
        )  # fmt: skip
        pieces.append(piece)
    np.testing.assert_allclose(np.concatenate(pieces, 2), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state, end)
    with pytest.raises(PortingError, match="activation"):
        ours("CausalConvWithState", x, weight, opset=27, outputs=2, activation="relu")
