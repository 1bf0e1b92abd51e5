"""The tensors of a result: name, type, shape, and what each is made of."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from porting.weights.safetensors_file import DTYPES

Content = Literal[
    "stored", "stored_scale", "float", "codes", "scale", "bias", "zeros", "ones", "shape", "group_index", "zero_points"
]
"""What a tensor of a result holds of the source tensor.

stored: its bytes as they are. stored_scale: its scales, as float32. float: its numbers, rounded once to the dtype of
the result. codes, scale: what it is quantized to. bias: what an int4 product adds (``scale_bias``). zeros, ones:
constants in the place of offsets and of smoothing. shape: two integers, rows and columns. group_index: of each column,
the number of its group. zero_points: what 0 is among unsigned codes of 4 bits, less one, in each nibble: 7.
"""
Packing = Literal["none", "row_pairs", "column_pairs", "words"]
"""Codes in bytes. row_pairs: rows 2 i (low nibble) and 2 i + 1 share a byte. column_pairs: the same of columns.
words: unsigned (code + 2 ** (bits - 1)), packed along the columns into little-endian int32."""


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """One tensor of a result. dtype: a key of ``safetensors_file.DTYPES``.

    transposed: its axes are exchanged, after packing; a row of the source is a column of it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: Content
    packing: Packing = "none"
    transposed: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return math.prod(self.shape) * self.itemsize
