import pytest
import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RMSNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm

from porting_kernels.errors import ShapeError
from porting_kernels.rms_norm import rms_norm

NORMS = {"deepseek_v3": (DeepseekV3RMSNorm, 0.0), "gpt_oss": (GptOssRMSNorm, 0.0), "gemma2": (Gemma2RMSNorm, 1.0)}


def _case(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.nn.Module, float]:
    module, weight_offset = NORMS[name]
    generator = torch.Generator().manual_seed(5)
    norm = module(24, eps=1e-5).to(dtype)
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
    return (torch.randn(3, 4, 24, generator=generator) * 3).to(dtype), norm, weight_offset


@pytest.mark.parametrize("name", NORMS)
def test_equals_the_norm_of_transformers(name):
    """Tolerance: a mean of 24 squares in another order, and x * (1 / r) for x / r."""
    x, norm, weight_offset = _case(name, torch.float32)
    got = rms_norm(x, norm.weight, epsilon=1e-5, weight_offset=weight_offset)
    torch.testing.assert_close(got, norm(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name, steps", [("deepseek_v3", 2), ("gpt_oss", 1), ("gemma2", 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_far_from_transformers_as_its_roundings(name, steps, dtype):
    """One rounding here; DeepSeek's norm rounds twice. gpt-oss and Gemma may differ where float32 sits on a tie."""
    x, norm, weight_offset = _case(name, dtype)
    got = rms_norm(x, norm.weight, epsilon=1e-5, weight_offset=weight_offset)
    assert got.dtype == dtype
    torch.testing.assert_close(got, norm(x), rtol=steps * torch.finfo(dtype).eps, atol=0)
    wide = rms_norm(x.float(), norm.weight.float(), epsilon=1e-5, weight_offset=weight_offset)
    assert torch.equal(got, wide.to(dtype))


def test_weight_of_another_length_is_refused():
    with pytest.raises(ShapeError, match="does not fit"):
        rms_norm(torch.zeros(2, 4), torch.ones(3))
