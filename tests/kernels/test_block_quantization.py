"""Codes of blocks: values by hand, and torch's own conversion to float8."""

from __future__ import annotations

import pytest
import torch

from porting_kernels.block_quantization import quantize_blocks
from porting_kernels.errors import DtypeError, PortingError, ShapeError
from porting_kernels.weight_quantization import LEAST_SCALE, Findings


def test_int8_by_hand_with_blocks_that_are_cut_off() -> None:
    w = torch.tensor([[127.0, -0.5, 2.0], [1.5, -127.0, 254.0], [3.0, 0.0, 0.0]])
    codes, scales, findings = quantize_blocks(w, "int8", (2, 2))
    assert scales.tolist() == [[1.0, 2.0], [pytest.approx(3 / 127), LEAST_SCALE]]
    assert codes.tolist() == [[127, 0, 1], [2, -127, 127], [127, 0, 0]], "halves go to the even code"
    assert findings == Findings(zero=1)


def test_float8_is_torchs_own_of_the_quotient() -> None:
    w = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    codes, scales, _ = quantize_blocks(w, "float8_e4m3fn")
    for block in range(2):
        part = w[:, block * 128 : (block + 1) * 128]
        assert scales[0, block] == part.abs().max() / 448
        expected = (part / scales[0, block]).to(torch.float8_e4m3fn)
        assert torch.equal(codes[:, block * 128 : (block + 1) * 128].view(torch.uint8), expected.view(torch.uint8))


def test_what_is_not_finite_spoils_its_block_only() -> None:
    w = torch.ones(2, 4)
    w[1, 3] = float("nan")
    codes, scales, findings = quantize_blocks(w, "int8", (2, 2))
    assert codes.tolist() == [[127, 127, 0, 0]] * 2
    assert scales.isnan().tolist() == [[False, True]]
    assert findings == Findings(not_finite=1)


def test_what_it_does_not_take() -> None:
    with pytest.raises(DtypeError, match="quantized from float32"):
        quantize_blocks(torch.ones(2, 2).double(), "int8")
    with pytest.raises(ShapeError, match="blocks are of a matrix"):
        quantize_blocks(torch.ones(2), "int8")
    with pytest.raises(PortingError, match="no such codes"):
        quantize_blocks(torch.ones(2, 2), "int4")  # type: ignore[arg-type]
