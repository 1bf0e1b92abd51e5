"""porting::GroupedMatmul, runs of rows times a matrix of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from porting_kernels.errors import ShapeError
from porting_kernels.registry import kernel


class ExpertWeights(Protocol):
    """A stack of matrices that gives one at a time: a tensor of three axes, or a source that reads when asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, K, N), or (E, N, K) where transposed."""
        ...

    def __getitem__(self, expert: int, /) -> torch.Tensor:
        """One expert's matrix."""
        ...


@kernel("GroupedMatmul", domain="porting", owns_result=True, streams=(1,))
def grouped_matmul(
    x: torch.Tensor,
    w: ExpertWeights,
    offsets: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    transposed: int = 0,
) -> torch.Tensor:
    """y[r] = x[r] @ w[e] + bias[e] for the rows r from offsets[e - 1] (or 0) up to offsets[e].

    x: (M, K) float16, bfloat16 or float32. w: (E, K, N), or (E, N, K) when transposed, of x's dtype. offsets: (E,)
    int64, not decreasing, the last one M. bias: (E, N) or (E, 1). Returns (M, N) of x's dtype. Products and bias add up
    in float32 (float64 for float64) and are rounded once. One matrix is asked for at a time, and only those of experts
    with rows. Raises ShapeError when the operands do not fit.
    """
    experts, k, n = (w.shape[0], w.shape[2], w.shape[1]) if transposed else tuple(w.shape)
    if x.ndim != 2 or x.shape[1] != k or offsets.shape != (experts,):
        raise ShapeError(
            "operands of a grouped product do not fit",
            required=f"x (M, {k}), offsets ({experts},) for w {tuple(w.shape)}",
            met=f"x {tuple(x.shape)}, offsets {tuple(offsets.shape)}",
        )
    if bias is not None and tuple(bias.shape) not in {(experts, n), (experts, 1)}:
        raise ShapeError("bias does not fit", required=f"({experts}, {n}) or ({experts}, 1)", met=tuple(bias.shape))
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.new_empty(x.shape[0], n)
    for expert, rows in runs(offsets, experts, x.shape[0]):
        matrix = w[expert].to(wide)
        product = x[rows].to(wide) @ (matrix.t() if transposed else matrix)
        y[rows] = product if bias is None else product.add_(bias[expert])
    return y


def runs(offsets: torch.Tensor, experts: int, rows: int) -> Iterator[tuple[int, slice]]:
    """The experts that have rows, each with them. ShapeError unless the offsets go from 0 up to ``rows``."""
    bounds = [0, *offsets.tolist()]
    if len(bounds) != experts + 1 or bounds != sorted(bounds) or bounds[-1] != rows:
        raise ShapeError(
            "offsets do not cover the rows", required=f"{experts} ends from 0 up to {rows}", met=bounds[1:]
        )
    for expert in range(experts):
        if bounds[expert] < bounds[expert + 1]:
            yield expert, slice(bounds[expert], bounds[expert + 1])
