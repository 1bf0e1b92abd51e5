import pytest
import torch
import torch.nn.functional as F
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from porting_kernels.errors import ShapeError
from porting_kernels.swiglu import swiglu


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 6


def test_halves_are_gate_and_up():
    gate, up = random(2, 4, 7).unbind(0)
    assert torch.equal(swiglu(torch.cat((gate, up), -1)), F.silu(gate) * up)


def test_pairs_are_gate_and_up():
    x = random(2, 3, 10)
    assert torch.equal(swiglu(x, interleaved=1), swiglu(torch.cat((x[..., 0::2], x[..., 1::2]), -1)))


def test_equals_the_experts_of_gpt_oss():
    """Tolerance: one product in another order; the data reach both limits."""
    experts = GptOssExperts(GptOssConfig(hidden_size=4, intermediate_size=5, num_local_experts=1))
    x = random(20, 10)
    assert x.max() > 7
    assert x.min() < -7
    got = swiglu(x, interleaved=1, alpha=experts.alpha, limit=experts.limit, offset=1.0)
    torch.testing.assert_close(got, experts._apply_gate(x), rtol=3e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    x = random(8, 10).to(dtype)
    for attributes in ({}, {"alpha": 1.702, "limit": 7.0, "offset": 1.0}):
        assert torch.equal(swiglu(x, **attributes), swiglu(x.float(), **attributes).to(dtype))


def test_the_operand_is_left_as_it_was():
    x = random(3, 8)
    kept = x.clone()
    for attributes in ({}, {"interleaved": 1, "alpha": 2.0, "limit": 1.0, "offset": 1.0}):
        swiglu(x, **attributes)
        assert torch.equal(x, kept)


def test_an_odd_axis_is_refused():
    with pytest.raises(ShapeError, match="equal width"):
        swiglu(torch.zeros(2, 3))
