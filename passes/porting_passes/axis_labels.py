"""What the axes of values stand for, followed upwards from a result through changes of layout and through products.

An exporter writes one contraction in many ways: as Einsum, or as MatMul between transposes and reshapes. Seen by labels
they are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from porting_passes.decompose_einsum import parse
from porting_passes.inference import dims_of
from porting_passes.node_facts import attribute
from porting_passes.search import Trail

Axis = tuple[str, ...]
_LAYOUT = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")
_PRODUCTS = ("Einsum", "MatMul")


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A value and, for each of its axes, the labels that are merged there, outermost first; none where it only pads."""

    value: ir.Value
    axes: tuple[Axis, ...]

    @property
    def labels(self) -> list[str]:
        """Every label, in the order of the elements."""
        return [label for axis in self.axes for label in axis]

    def holds(self, labels: str) -> bool:
        """Whether these labels, of one letter each, are those of the value, in any order."""
        return sorted(self.labels) == sorted(labels)

    def renamed(self, label: str, new: str) -> Labelled:
        """The same value, a label called otherwise."""
        return Labelled(self.value, tuple(tuple(new if i == label else i for i in axis) for axis in self.axes))


class AxisLabels:
    """Labels along one search; a step that cannot be followed ends it."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self.extents: dict[str, int | str] = {}

    def name(self, value: ir.Value | None, labels: str) -> Labelled:
        """Give each axis of a value a new label."""
        dims = () if value is None else dims_of(value) or ()
        self.trail.require(len(dims) == len(labels))
        for label, dim in zip(labels, dims, strict=True):
            self._new(label, dim)
        assert value is not None
        return Labelled(value, tuple((label,) for label in labels))

    def _new(self, label: str, dim: int | str | None) -> None:
        self.trail.require(dim is not None)
        assert dim is not None
        self.extents[label] = dim

    def like(self, value: ir.Value | None, other: Labelled) -> Labelled:
        """A value that another one is computed from element by element."""
        self.trail.require(value is not None and None is not dims_of(value) == dims_of(other.value))
        assert value is not None
        return Labelled(value, other.axes)

    def part(self, value: ir.Value | None, whole: Labelled, axis: int, label: str) -> Labelled:
        """A value that stands beside others along an axis of ``whole``; the axis gets a new label."""
        dims, others = None if value is None else dims_of(value), dims_of(whole.value)
        self.trail.require(dims is not None and others is not None and len(dims) == len(others))
        assert value is not None
        assert dims is not None
        self.trail.require(dims[:axis] + dims[axis + 1 :] == (others or ())[:axis] + (others or ())[axis + 1 :])
        self._new(label, dims[axis])
        return Labelled(value, (*whole.axes[:axis], (label,), *whole.axes[axis + 1 :]))

    def above(self, x: Labelled, *, shared: bool = True) -> Labelled | None:
        """The value of which ``x`` is another layout; None when it is none, or axes cannot be told apart."""
        node = self.trail.peek(x.value, *_LAYOUT)
        source = None if node is None else node.inputs[0]
        dims = None if source is None else dims_of(source)
        if node is None or source is None or dims is None:
            return None
        if node.op_type == "Transpose":
            perm = list(attribute(node, "perm", range(len(dims) - 1, -1, -1)))
            axes: tuple[Axis, ...] | None = tuple(x.axes[perm.index(i)] for i in range(len(dims)))
        else:
            axes = self.regrouped(x.labels, dims)
        if axes is None:
            return None
        self.trail.up(x.value, *_LAYOUT, shared=shared)
        return Labelled(source, axes)

    def regrouped(self, labels: list[str], dims: Sequence[int | str | None]) -> tuple[Axis, ...] | None:
        """Which labels are merged where the same elements, in the same order, have these extents; None if unclear."""
        axes: list[Axis] = []
        rest = list(labels)
        for dim in dims:
            if dim == 1 and (not rest or self.extents[rest[0]] != 1):
                axes.append(())
                continue
            size: int | str | None = None
            axis: list[str] = []
            while rest and size != dim:
                extent = self.extents[rest[0]]
                if size is not None and not (isinstance(size, int) and isinstance(extent, int)):
                    return None
                size = extent if size is None else int(size) * int(extent)
                axis.append(rest.pop(0))
            if size != dim:
                return None
            axes.append(tuple(axis))
        return None if rest else tuple(axes)

    def maker(self, x: Labelled, *op_types: str) -> tuple[ir.Node, Labelled]:
        """The node of one of these operators that makes ``x`` in some layout, and its own output."""
        here: Labelled | None = x
        while here is not None:
            if self.trail.peek(here.value, *op_types) is not None:
                return self.trail.up(here.value, *op_types), here
            here = self.above(here, shared=False)
        self.trail.fail()

    def makes(self, value: ir.Value | None, *op_types: str) -> bool:
        """Whether ``maker`` would find a node, without going there."""
        while (node := self.trail.peek(value, *_LAYOUT)) is not None:
            value = node.inputs[0]
        return self.trail.peek(value, *op_types) is not None

    def is_product(self, value: ir.Value | None) -> bool:
        """Whether ``product`` has something to look at."""
        return self.makes(value, *_PRODUCTS)

    def product(self, x: Labelled, inner: str) -> tuple[Labelled, Labelled]:
        """The two operands of the product that makes ``x``; the label that they are summed over is new."""
        node, result = self.maker(x, *_PRODUCTS)
        self.trail.require(len(node.inputs) == 2 and None not in node.inputs)
        first, second = (v for v in node.inputs if v is not None)
        return (
            self._einsum(node, result, inner, first, second)
            if node.op_type == "Einsum"
            else self._matmul(result, inner, first, second)
        )

    def _einsum(
        self, node: ir.Node, result: Labelled, inner: str, first: ir.Value, second: ir.Value
    ) -> tuple[Labelled, Labelled]:
        equation = parse(node)
        if isinstance(equation, str):
            self.trail.fail()
        left, right = equation.operands
        summed = (set(left) | set(right)) - set(equation.result)
        self.trail.require(len(summed) == 1 and summed <= set(left) & set(right))
        (letter,) = summed
        self._new(inner, equation.extents[letter])
        axes = {**dict(zip(equation.result, result.axes, strict=True)), letter: (inner,)}
        return Labelled(first, tuple(axes[i] for i in left)), Labelled(second, tuple(axes[i] for i in right))

    def _matmul(self, result: Labelled, inner: str, first: ir.Value, second: ir.Value) -> tuple[Labelled, Labelled]:
        left, right, whole = dims_of(first) or (), dims_of(second) or (), dims_of(result.value) or ()
        self.trail.require(min(len(left), len(right)) >= 2 and len(whole) == max(len(left), len(right)))
        self._new(inner, left[-1])

        def batch(dims: Sequence[int | str | None]) -> list[Axis]:
            lead = range(len(whole) - len(dims), len(whole) - 2)
            own = dims[:-2]
            self.trail.require(all(dim in (1, whole[i]) for dim, i in zip(own, lead, strict=True)))
            return [result.axes[i] if dim == whole[i] else () for dim, i in zip(own, lead, strict=True)]

        return (
            Labelled(first, (*batch(left), result.axes[-2], (inner,))),
            Labelled(second, (*batch(right), (inner,), result.axes[-1])),
        )

    def laid_out(self, x: Labelled, wanted: tuple[Axis, ...]) -> Labelled:
        """``x`` or the value above it that has these axes; else the first that needs no more than a transpose."""
        found, here = None, x
        labels = sorted(axis for axis in wanted if axis)
        while here is not None:
            if here.axes == wanted:
                return here
            if found is None and sorted(axis for axis in here.axes if axis) == labels:
                found = here
            here = self.above(here)  # type: ignore[assignment]
        self.trail.require(found)
        assert found is not None
        return found
