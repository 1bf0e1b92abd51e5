import pytest
import torch
from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.rotary_embedding import rotary_embedding


def operands(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, angle = torch.randn(shape, generator=generator), torch.randn(1, shape[2], shape[3] // 2, generator=generator)
    return x, angle.cos(), angle.sin()


def doubled(table: torch.Tensor) -> torch.Tensor:
    return torch.cat((table, table), -1)


def test_halves_are_those_of_llama():
    x, cos, sin = operands(2, 3, 5, 8)
    expected, _ = apply_rotary_pos_emb(x, x, doubled(cos), doubled(sin))
    torch.testing.assert_close(rotary_embedding(x, cos, sin), expected, rtol=1e-6, atol=1e-6)


def test_pairs_to_halves_are_those_of_transformers_deepseek():
    x, cos, sin = operands(2, 3, 5, 8)
    expected, _ = apply_rotary_pos_emb_interleave(x, x, doubled(cos), doubled(sin))
    torch.testing.assert_close(
        rotary_embedding(x, cos, sin, layout="interleaved_to_half"), expected, rtol=1e-6, atol=1e-6
    )


def test_pairs_are_complex_numbers_as_deepseek_has_them():
    x, cos, sin = operands(2, 3, 5, 8)
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.complex(cos, sin).unsqueeze(1)
    torch.testing.assert_close(
        rotary_embedding(x, cos, sin, layout="interleaved"),
        torch.view_as_real(turned).flatten(-2),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    x, cos, sin = (t.to(dtype) for t in operands(1, 2, 3, 4))
    assert torch.equal(rotary_embedding(x, cos, sin), rotary_embedding(x.float(), cos.float(), sin.float()).to(dtype))


def test_bad_operands_are_refused():
    x, cos, sin = operands(1, 2, 3, 4)
    with pytest.raises(ShapeError, match="tables"):
        rotary_embedding(x, doubled(cos), doubled(sin))
    with pytest.raises(PortingError, match="layout"):
        rotary_embedding(x, cos, sin, layout="thirds")
