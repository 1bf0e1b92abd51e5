import pytest
import torch

from porting_kernels.add_rms_norm import add_rms_norm
from porting_kernels.rms_norm import rms_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_norm_reads_the_rounded_sum(dtype):
    x, residual, weight = (torch.randn(5, 8, generator=torch.Generator().manual_seed(s)).to(dtype) for s in range(3))
    y, total = add_rms_norm(x, residual, weight[0], epsilon=1e-3, weight_offset=1.0)
    assert torch.equal(total, (x.float() + residual.float()).to(dtype))
    assert torch.equal(y, rms_norm(total, weight[0], epsilon=1e-3, weight_offset=1.0))
