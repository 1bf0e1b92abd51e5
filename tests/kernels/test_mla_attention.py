import pytest
import torch
import torch.nn.functional as F

from porting_kernels.errors import ShapeError, UnsupportedOperatorError
from porting_kernels.mla_attention import mla_attention

B, H, S, T, N, R, C, V = 2, 3, 5, 5, 4, 2, 6, 8


def operands(keys: int = T) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(B, H, S, N), (B, H, S, R), (B, keys, C), (B, 1, keys, R), (C, H * (N + V))]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def expected(q_nope, q_rope, latent, k_rope, kv_b, bias, scale):
    """By torch's own attention, as transformers' eager model lays its operands out."""
    kv = (latent @ kv_b).view(B, -1, H, N + V).transpose(1, 2)
    key = torch.cat((kv[..., :N], k_rope.expand(-1, H, -1, -1)), -1)
    y = F.scaled_dot_product_attention(torch.cat((q_nope, q_rope), -1), key, kv[..., N:], bias, scale=scale)
    return y.transpose(1, 2).reshape(B, S, H * V)


@pytest.mark.parametrize("absorbed", [0, 1])
@pytest.mark.parametrize("keys", [S, S + 3])
def test_equals_attention_over_expanded_keys(absorbed, keys):
    """Tolerance: sums in another order."""
    values = operands(keys)
    causal = torch.full((S, keys), -torch.inf).triu(keys - S + 1)
    got = mla_attention(*values, scale=0.4, is_causal=1, absorbed=absorbed)
    torch.testing.assert_close(got, expected(*values, causal, 0.4), rtol=1e-5, atol=1e-5)
    mask = torch.randn(B, 1, S, keys, generator=torch.Generator().manual_seed(4))
    got = mla_attention(*values, mask, scale=0.4, absorbed=absorbed)
    torch.testing.assert_close(got, expected(*values, mask, 0.4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    values = [value.to(dtype) for value in operands()]
    wide = mla_attention(*[value.float() for value in values], scale=0.4)
    assert torch.equal(mla_attention(*values, scale=0.4), wide.to(dtype))


def test_weights_that_do_not_fit_are_refused():
    *rest, kv_b = operands()
    with pytest.raises(ShapeError, match="latent attention"):
        mla_attention(*rest, kv_b[:, :-1], scale=1.0)


@pytest.mark.parametrize(("past", "met"), [((T, None), "operand 6, the latent"), ((None, T), "operand 7, the rotary")])
def test_the_cache_is_reserved(past, met):
    values = [None if extent is None else torch.zeros(B, extent, C) for extent in past]
    with pytest.raises(UnsupportedOperatorError, match="no cache yet") as caught:
        mla_attention(*operands(), None, *values, scale=1.0)
    assert met in str(caught.value)
    assert "reserved" in str(caught.value)
