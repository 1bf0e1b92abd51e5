"""Named conversions between the form an operand has in a composite operator and the form a surface stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from porting_kernels import float32_word


class Packer(NamedTuple):
    """pack: composite's form -> stored form. unpack: back, to what the stored form can hold."""

    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray], np.ndarray]


PACKERS: dict[str, Packer] = {"float32_word": Packer(float32_word.pack, float32_word.unpack)}
"""Name in an operator row -> packer."""
