"""float32 rows of a weight -> codes, scales and biases; and codes -> the bytes of a format."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from porting.checkpoint.made import Packing
from porting.quantization.scale_bias import scale_bias
from porting.quantization.weight_spec import WeightSpec
from porting_kernels import fp8, int4, microscaling, native
from porting_kernels.block_quantization import Kind
from porting_kernels.weight_quantization import Findings


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """One float32 scale for each block of rows and columns; blocks at the edges may be cut off.

    kind: float8_e4m3fn, with scale absmax / 448, or int8, with absmax / 127.
    """

    kind: Kind
    block: tuple[int, int] = fp8.BLOCK


@dataclasses.dataclass(frozen=True)
class MxSpec:
    """A power of two for each 32 columns, elements of e4m3 (8 bits) or e2m1 (4): ``porting_kernels.microscaling``."""

    bits: int
    group: int = microscaling.GROUP


Spec = WeightSpec | BlockSpec | MxSpec


@dataclasses.dataclass(frozen=True)
class Encoded:
    """codes: [rows, columns], int8, float8, or uint8 of 4 bits. bias: [rows, slices].

    scale: [rows or blocks, groups], float32; of MX formats uint8.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    findings: Findings
    bias: torch.Tensor | None = None


def code_dtype(spec: Spec) -> torch.dtype:
    """Of codes before they are packed."""
    if isinstance(spec, MxSpec):
        return torch.float8_e4m3fn if spec.bits == 8 else torch.uint8
    return torch.float8_e4m3fn if isinstance(spec, BlockSpec) and spec.kind == "float8_e4m3fn" else torch.int8


def rows_together(spec: Spec | None, packing: Packing = "none") -> int:
    """Rows that must be made at once: those of a block, or of a byte."""
    if isinstance(spec, BlockSpec):
        return spec.block[0]
    return 2 if packing == "row_pairs" else 1


def encode(values: torch.Tensor, spec: Spec, bias_slices: int = 0, codes: torch.Tensor | None = None) -> Encoded:
    """Quantize rows, float32 [r, k]. bias_slices: sums a row in ``bias``; 0: none is made. codes: where to put them.

    Of whole blocks only, where ``spec`` has blocks; each row by itself otherwise, so that results do not depend on
    how rows are cut. Integer codes of rows are those of ``porting.quantization.quantize_weight``.
    """
    if isinstance(spec, MxSpec):
        return Encoded(*native.microscale(values, spec.bits, codes=codes))
    if isinstance(spec, BlockSpec):
        return Encoded(*native.quantize_blocks(values, spec.kind, spec.block, codes=codes))
    codes, scale, findings = native.quantize_rows(
        values, bits=spec.bits, group=spec.group, search=spec.search, divisor=spec.divisor, codes=codes
    )
    bias = scale_bias(codes, scale, bias_slices) if bias_slices else None
    return Encoded(codes, scale, findings, bias)


def packed(codes: torch.Tensor, packing: Packing, bits: int) -> torch.Tensor:
    """Codes [r, k] in the bytes of a format. ShapeError where they do not go into pairs."""
    if packing == "row_pairs":
        return torch.from_numpy(int4.pack_pairs(codes.numpy(), axis=0))
    if packing == "column_pairs":
        # The bits of a pair are the same whether they stand for an integer or a float.
        return torch.from_numpy(int4.pack_pairs(codes.view(torch.int8).numpy(), axis=1)).view(codes.dtype)
    return _words(codes, bits) if packing == "words" else codes


def _words(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Unsigned codes of 4 or 8 bits, little-endian, the first in the lowest bits; rows padded with zero bits."""
    unsigned = codes.numpy().view(np.uint8) + np.uint8(1 << (bits - 1))
    per_word = 32 // bits
    padding = -unsigned.shape[1] % per_word
    if padding:
        unsigned = np.pad(unsigned, ((0, 0), (0, padding)))
    if bits == 4:
        unsigned = unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    return torch.from_numpy(np.ascontiguousarray(unsigned).view("<i4"))


def word_columns(columns: int, bits: int) -> int:
    """int32 words of a row of codes."""
    return -(-columns * bits // 32)
