"""DepthToSpace and SpaceToDepth: blocks of an image against channels. Layout (N, C, H, W)."""

from __future__ import annotations

import torch

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.registry import kernel


@kernel("DepthToSpace")
def depth_to_space(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    """(N, C*b*b, H, W) -> (N, C, H*b, W*b). DCR: channels are (row, column, C); CRD: (C, row, column)."""
    n, channels, height, width = x.shape
    if channels % (blocksize * blocksize):
        raise ShapeError("channels do not divide into blocks", required=f"a multiple of {blocksize**2}", met=channels)
    depth = channels // (blocksize * blocksize)
    if mode == "DCR":
        parts = x.reshape(n, blocksize, blocksize, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    elif mode == "CRD":
        parts = x.reshape(n, depth, blocksize, blocksize, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        raise PortingError("unknown mode of DepthToSpace", required="DCR or CRD", met=mode)
    return parts.reshape(n, depth, height * blocksize, width * blocksize)


@kernel("SpaceToDepth")
def space_to_depth(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    """(N, C, H*b, W*b) -> (N, C*b*b, H, W), the inverse of DepthToSpace in the same mode."""
    n, channels, height, width = x.shape
    if height % blocksize or width % blocksize:
        raise ShapeError("image does not divide into blocks", required=f"multiples of {blocksize}", met=[height, width])
    parts = x.reshape(n, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    if mode == "DCR":
        parts = parts.permute(0, 3, 5, 1, 2, 4)
    elif mode == "CRD":
        parts = parts.permute(0, 1, 3, 5, 2, 4)
    else:
        raise PortingError("unknown mode of SpaceToDepth", required="DCR or CRD", met=mode)
    return parts.reshape(n, channels * blocksize * blocksize, height // blocksize, width // blocksize)
