"""GridSample and AffineGrid: sampling images and volumes at given places."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from porting_kernels.errors import PortingError, ShapeError
from porting_kernels.precision import rounds_once
from porting_kernels.registry import kernel

# Opset 16 names the modes as torch does, opset 20 without the number of axes.
_MODES = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic"}


@kernel("GridSample", since=16)
@rounds_once
def grid_sample(
    x: torch.Tensor,
    grid: torch.Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """x (N, C, [D,] H, W) at grid (N, ..., 2 or 3), x first, -1 to 1 over each axis. Source: ONNX operator GridSample.

    Integer x keeps its type; positions halfway between two elements go to the even one. Raises ShapeError for other
    numbers of axes and for cubic interpolation of volumes, which torch does not have.
    """
    if mode not in _MODES:
        raise PortingError("unknown mode", required=", ".join(_MODES), met=mode)
    if x.ndim not in (4, 5) or (x.ndim == 5 and _MODES[mode] == "bicubic"):
        raise ShapeError("sampling over this many axes", required="2, or 3 unless cubic", met=(x.ndim - 2, mode))
    dtype = x.dtype if x.is_floating_point() else grid.dtype
    y = F.grid_sample(x.to(dtype), grid.to(dtype), _MODES[mode], padding_mode, bool(align_corners))
    return y.to(x.dtype)


@kernel("AffineGrid", since=20)
@rounds_once
def affine_grid(theta: torch.Tensor, size: torch.Tensor, *, align_corners: int = 0) -> torch.Tensor:
    """Places for GridSample: theta (N, 2, 3) or (N, 3, 4) applied to the regular grid of size (N, C, [D,] H, W)."""
    return F.affine_grid(theta, size.tolist(), align_corners=bool(align_corners))
