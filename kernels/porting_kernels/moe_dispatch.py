"""porting::MoeDispatch, the rows of tokens in the order of the experts they go to."""

from __future__ import annotations

import torch

from porting_kernels.errors import PortingError
from porting_kernels.registry import kernel


@kernel("MoeDispatch", domain="porting")
def moe_dispatch(
    x: torch.Tensor, ids: torch.Tensor, *, experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Copy each token's row once for every expert it goes to, sorted by expert.

    x: (N, H), any dtype. ids: (N, k) int64, each from 0 to experts - 1. Returns rows (N * k, H), in the order of
    experts and within one expert of tokens, then slots; offsets (experts,) int64, the end of each expert's rows; and
    index (N * k,) int64, which entry of ids a row stands for, token * k + slot.
    Raises PortingError when an id names no expert.
    """
    flat = ids.reshape(-1)
    if flat.numel() and not (int(flat.min()) >= 0 and int(flat.max()) < experts):
        raise PortingError(
            "an id names no expert", required=f"0 to {experts - 1}", met=(int(flat.min()), int(flat.max()))
        )
    index = flat.sort(stable=True).indices
    offsets = torch.bincount(flat, minlength=experts).cumsum(0)
    return x[index.div(max(ids.shape[1], 1), rounding_mode="floor")], offsets, index
