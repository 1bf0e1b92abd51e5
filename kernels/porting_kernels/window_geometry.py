"""Where the windows of convolutions and poolings lie: kernel sizes, pads and output sizes, one entry a spatial axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from porting_kernels.errors import PortingError, ShapeError


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes of one input.

    size: input sizes. begin / end: padding before and after.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Dilated kernel sizes."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Equal padding on both sides, the form that torch's own operators take."""
        return self.begin == self.end

    def output(self, *, ceil_mode: bool = False) -> tuple[int, ...]:
        """Number of windows an axis.

        With ceil_mode a last partial window counts if it starts inside the input or the padding before it.
        """
        counts = []
        for n, extent, stride, before, after in zip(
            self.size, self.extent, self.strides, self.begin, self.end, strict=True
        ):
            span = n + before + after - extent
            if span < 0 and not ceil_mode:
                raise ShapeError(
                    "a window is larger than the padded input", required=f"<= {n + before + after}", met=extent
                )
            count = (-(-span // stride) if ceil_mode else span // stride) + 1
            if ceil_mode and (count - 1) * stride >= n + before:
                count -= 1
            counts.append(count)
        return tuple(counts)

    def pad(self, x: torch.Tensor, value: float, *, output: Sequence[int] | None = None) -> torch.Tensor:
        """X padded with value; with ``output`` given, at the end by as much as that many windows need, or cut."""
        end = list(self.end)
        if output is not None:
            for i, count in enumerate(output):
                end[i] = (count - 1) * self.strides[i] + self.extent[i] - self.size[i] - self.begin[i]
        widths = [w for pair in zip(reversed(self.begin), reversed(end), strict=True) for w in pair]
        return F.pad(x, widths, value=value) if any(widths) else x


def windows(
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    auto_pad: str = "NOTSET",
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
) -> Windows:
    """Resolve the window attributes of an ONNX node against the spatial sizes of its input.

    SAME_UPPER and SAME_LOWER give ceil(size / stride) windows, the odd padding at the end or at the beginning.
    Raises ShapeError when an attribute has not one entry an axis, PortingError for an unknown auto_pad.
    """
    rank = len(size)
    strides = tuple(strides or (1,) * rank)
    dilations = tuple(dilations or (1,) * rank)
    pads = tuple(pads or (0,) * 2 * rank)
    for name, value, entries in (
        ("kernel_shape", kernel, rank),
        ("strides", strides, rank),
        ("dilations", dilations, rank),
        ("pads", pads, 2 * rank),
    ):
        if len(value) != entries:
            raise ShapeError(f"{name} does not fit the input", required=f"{entries} entries", met=list(value))
    if auto_pad == "NOTSET":
        begin, end = pads[:rank], pads[rank:]
    elif auto_pad == "VALID":
        begin = end = (0,) * rank
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
        ]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        begin, end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    else:
        raise PortingError("unknown auto_pad", required="NOTSET, VALID, SAME_UPPER or SAME_LOWER", met=auto_pad)
    return Windows(tuple(size), tuple(kernel), strides, dilations, tuple(begin), tuple(end))
