"""The weight of keys and values of all heads, of the pieces by which an absorbed attention multiplies.

Nothing is read: a stored tensor is put together from stored ones where their algebra can, an ordinary one is made when
somebody asks for its contents.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir

from porting_passes.axis_labels import AxisLabels, Labelled
from porting_passes.constants import constant_of, ints_of
from porting_passes.inference import dims_of
from porting_passes.join_weights import joinable
from porting_passes.node_facts import attribute, operand
from porting_passes.stored import is_stored

_LAST = ("c", "h", "p")
"""Axes of kv_b (C, H (N + V)), the last two merged; p are N columns of the key and V of the value."""


@dataclasses.dataclass(frozen=True)
class HeadWeights:
    """parts: weights of labels h, c and n or v - or one of labels h, c and p - side by side along p.

    tensors: their contents. extents: of the labels.
    """

    parts: tuple[Labelled, ...]
    tensors: tuple[Any, ...]
    extents: dict[str, int]

    @classmethod
    def of(cls, labels: AxisLabels, key: Labelled, value: Labelled) -> HeadWeights:
        """From weights of the labels h, n, c and h, v, c; the search ends where they are none."""
        trail = labels.trail
        whole, start, stop = _taken(labels, key, "n")
        other, middle, end = _taken(labels, value, "v")
        if whole is None or other is None:
            parts = tuple(_weight(labels, part) for part in (key, value))
            weights = [part.value for part in parts]
            trail.require(joinable(weights) and all(len(weight.uses()) == 1 for weight in weights))
        else:
            trail.require(whole == other and (start, stop, end) == (0, middle, labels.extents["p"]))
            parts = (_weight(labels, whole),)
        extents = {label: extent for label, extent in labels.extents.items() if isinstance(extent, int)}
        trail.require(all(label in extents for part in parts for label in part.labels))
        found = cls(parts, tuple(constant_of(part.value) for part in parts), extents)
        trail.require(found.stands or not found.stored or None not in found._heads_first())
        return found

    @property
    def stands(self) -> bool:
        """Whether the weight is there already."""
        return len(self.parts) == 1 and self.parts[0].axes == (("c",), ("h", "p"))

    @property
    def stored(self) -> bool:
        """Whether the weights are left where they are stored."""
        return is_stored(self.tensors[0])

    def _heads_first(self) -> list[Any]:
        """Stored parts as (H, N or V or both, C); None where that takes more than their algebra has."""
        return [self._turned(*pair) for pair in zip(self.parts, self.tensors, strict=True)]

    def _turned(self, part: Labelled, tensor: Any) -> Any:
        width = next(label for label in part.labels if label in "nvp")
        if part.axes in ((("h",), ("c",), (width,)), (("c",), ("h", width))):
            tensor = tensor.transposed()
        elif part.labels != ["h", width, "c"] or part.axes[-1] != ("c",):
            return None
        return tensor.reshaped([self.extents["h"], self.extents[width], self.extents["c"]])

    def tensor(self) -> ir.TensorProtocol:
        """kv_b, (C, H (N + V))."""
        heads, latent, dtype = self.extents["h"], self.extents["c"], self.tensors[0].dtype
        width = sum(self.extents[label] for part in self.parts for label in part.labels if label in "nvp")
        if self.stored:
            parts = self._heads_first()
            joined = parts[0] if len(parts) == 1 else parts[0].concatenated(parts, 1)
            turned: ir.TensorProtocol = joined.reshaped([heads * width, latent]).transposed()
            return turned

        def make() -> ir.TensorProtocol:
            arrays = [self._array(*pair) for pair in zip(self.parts, self.tensors, strict=True)]
            return ir.tensor(np.concatenate(arrays, 2).reshape(latent, heads * width), dtype=dtype)

        return ir.LazyTensor(make, dtype=dtype, shape=ir.Shape([latent, heads * width]))

    def _array(self, part: Labelled, tensor: Any) -> np.ndarray[Any, Any]:
        """An ordinary part as (C, H, N or V or both)."""
        apart = tensor.numpy().reshape([self.extents[label] for label in part.labels])
        order = [part.labels.index(label) for label in "ch"]
        (rest,) = {0, 1, 2} - set(order)
        turned: np.ndarray[Any, Any] = apart.transpose(*order, rest)
        return turned


def _weight(labels: AxisLabels, x: Labelled) -> Labelled:
    """The weight of which ``x`` is another layout."""
    here: Labelled | None = x
    while here is not None and not here.value.is_initializer():
        here = labels.above(here)
    labels.trail.require(here is not None and constant_of(here.value) is not None)
    assert here is not None
    return here


def _taken(labels: AxisLabels, x: Labelled, label: str) -> tuple[Labelled | None, int, int]:
    """The value of which ``x`` is a range along the axis of a label, which is p there, and the range."""
    here: Labelled | None = x
    while here is not None and labels.trail.peek(here.value, "Slice", "Split") is None:
        here = labels.above(here)
    if here is None:
        return None, 0, 0
    node = labels.trail.up(here.value, "Slice", "Split", shared=True)
    source = node.inputs[0]
    dims = None if source is None else dims_of(source)
    labels.trail.require(dims is not None and (label,) in here.axes)
    assert source is not None
    assert dims is not None
    axis = here.axes.index((label,))
    extent = dims[axis]
    taken = _range(node, here.value, axis, extent) if isinstance(extent, int) else None
    if not isinstance(extent, int) or taken is None:
        labels.trail.fail()
    labels.extents["p"] = extent
    return Labelled(source, (*here.axes[:axis], ("p",), *here.axes[axis + 1 :])), taken.start, taken.stop


def _range(node: ir.Node, value: ir.Value, axis: int, extent: int) -> range | None:
    """What a Split or a Slice takes of an axis for one of its outputs; None when that is not all it does."""
    rank = len(value.shape or ())
    if node.op_type == "Split":
        if attribute(node, "axis", 0) % rank != axis:
            return None
        sizes = [(dims_of(output) or (None,) * rank)[axis] for output in node.outputs]
        known = [size for size in sizes if isinstance(size, int)]
        start = sum(known[: value.index() or 0])
        return range(start, start + known[value.index() or 0]) if len(known) == len(sizes) else None
    starts, ends, axes = (ints_of(operand(node, index)) for index in (1, 2, 3))
    steps = [1] if operand(node, 4) is None else ints_of(operand(node, 4))
    if starts is None or ends is None or axes is None or len(axes) != 1 or steps != [1] or axes[0] % rank != axis:
        return None
    return range(extent)[starts[0] : ends[0]]
