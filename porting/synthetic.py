"""Inputs for a model that came with none: seeded, and never enough for a verdict of pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from porting.errors import UsageError

SEED = 20240229
COUNT = 4
_UNBOUNDED = 2
# An image of 4096 x 1365 in three channels: beyond that nobody means numbers that were made up.
_MOST = 1 << 24


def samples(inputs: Sequence[ir.Value], dims: Mapping[str, tuple[int, int]]) -> list[dict[str, np.ndarray]]:
    """Four samples: normal floats, integers 0 and 1, both truth values; a symbol takes the least size of its range.

    Raises UsageError for an input whose rank or dtype is not known, or that is larger than 2**24 elements.
    """
    rng = np.random.default_rng(SEED)
    return [{v.name or "": _array(v, dims, rng) for v in inputs if not v.is_initializer()} for _ in range(COUNT)]


def _array(value: ir.Value, dims: Mapping[str, tuple[int, int]], rng: np.random.Generator) -> np.ndarray:
    if value.shape is None or value.dtype is None:
        raise UsageError(f"cannot make up data for input {value.name!r}", met="no shape or dtype", fix="--inputs DATA")
    shape = [d if isinstance(d, int) else dims.get(str(d.value), (_UNBOUNDED, 0))[0] for d in value.shape]
    if math.prod(shape) > _MOST:
        raise UsageError(
            f"cannot make up data for input {value.name!r}",
            required=f"at most {_MOST} elements",
            met=f"[{', '.join(map(str, shape))}]",
            fix="give --inputs DATA, or smaller dimensions by --dim and --shape",
        )
    dtype = value.dtype.numpy()
    if value.dtype.is_floating_point():
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
