"""Two values that are the halves, or the even and the odd elements, of one value's last axis."""

from __future__ import annotations

import onnx_ir as ir

from porting_passes.constants import ints_of
from porting_passes.node_facts import attribute, operand
from porting_passes.search import Trail


def halves(trail: Trail, first: ir.Value | None, second: ir.Value | None) -> tuple[ir.Value, bool]:
    """The value they are parts of, and whether they are its even and its odd elements; the search ends otherwise.

    They come from one Split in two equal parts, or from two Slices.
    """
    split = trail.peek(first, "Split")
    if split is not None:
        trail.up(first, "Split")
        trail.require(len(split.outputs) == 2 and first is split.outputs[0] and second is split.outputs[1])
        x = split.inputs[0]
        width = last_extent(x)
        trail.require(x is not None and x.shape is not None and attribute(split, "axis", 0) in (-1, len(x.shape) - 1))
        trail.require(width is not None and last_extent(first) == last_extent(second) == (width or 0) // 2)
        assert x is not None
        return x, False
    parts = [trail.up(value, "Slice") for value in (first, second)]
    x = parts[0].inputs[0]
    trail.require(x is not None and x is parts[1].inputs[0])
    assert x is not None
    width = last_extent(x)
    if width is None or width % 2:
        trail.fail()
    ranges = tuple(sliced(part, width) for part in parts)
    both = range(width)
    if ranges == (both[::2], both[1::2]):
        return x, True
    trail.require(ranges == (both[: width // 2], both[width // 2 :]))
    return x, False


def sliced(node: ir.Node, width: int) -> range | None:
    """What a Slice takes of the last axis, of this width; None when it takes of another one, or is not constant."""
    x = node.inputs[0]
    starts, ends, axes = (ints_of(operand(node, index)) for index in (1, 2, 3))
    steps = [1] if operand(node, 4) is None else ints_of(operand(node, 4))
    if starts is None or ends is None or steps is None or axes is None or x is None or x.shape is None:
        return None
    if len(starts) != 1 or axes[0] not in (-1, len(x.shape) - 1) or steps[0] < 1:
        return None
    return range(width)[starts[0] : ends[0] : steps[0]]


def last_extent(value: ir.Value | None) -> int | None:
    """The last extent of a value when it is a number."""
    if value is None or value.shape is None or not len(value.shape):
        return None
    dim = value.shape[-1]
    return dim if isinstance(dim, int) else None
